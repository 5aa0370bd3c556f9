-- archive: which data must stay in Redis until the archive holds it.
-- include: cache
-- include: clock
-- include: entry_ids
-- include: keys
local archive = {}

local cached = cache.register_single('keeps_audio', 'stable', function()
  return redis.call('HGET', keys.archive, 'audio') == '1'
end)

-- Whether the archive of the cell stores audio as well.
function archive.keeps_audio()
  return cached.read_through()
end

-- Whether the archive holds every entry that the log had `ms` ago.
function archive.holds_before(ms)
  local to = redis.call('HGET', keys.archive, 'to')
  local before = string.format('%d-0', math.max(0, clock.now() - ms))
  if not entry_ids.precedes(to, before) then return true end
  local last = redis.call('XREVRANGE', keys.log, '+', '-', 'COUNT', 1)[1]
  return not last or not entry_ids.precedes(to, last[1])
end
return archive
