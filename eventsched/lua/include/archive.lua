-- archive: what has to stay until the archive holds it.
-- include: cache
-- include: clock
-- include: entry_ids
-- include: keys
local archive = {}
local function kept_audio()
  return redis.call('HGET', keys.archive, 'audio') == '1'
end
function archive.keeps_audio()
  return cache.once('keeps_audio', kept_audio)
end
-- Whether it holds everything that the log had `ms` ago.
function archive.holds_before(ms)
  local to = redis.call('HGET', keys.archive, 'to')
  if not entry_ids.precedes(to, string.format('%d-0', math.max(0, clock.now() - ms))) then return true end
  local last = redis.call('XREVRANGE', keys.log, '+', '-', 'COUNT', 1)[1]
  return not last or not entry_ids.precedes(to, last[1])
end
return archive
