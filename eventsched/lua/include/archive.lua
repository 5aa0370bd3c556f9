-- archive: what has to stay until the archive holds it.
-- include: keys
-- include: ids
-- include: clock
-- include: standing
local archive = {}
function archive.keeps_audio()
  local here = standing.of_cell()
  if here.keeps_audio == nil then
    here.keeps_audio = redis.call('HGET', keys.archive, 'audio') == '1'
  end
  return here.keeps_audio
end
-- Whether it holds everything that the log had `ms` ago.
function archive.holds_before(ms)
  local to = redis.call('HGET', keys.archive, 'to')
  if not ids.before(to, string.format('%d-0', math.max(0, clock.now() - ms))) then return true end
  local last = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  return not last or not ids.before(to, last[1])
end
