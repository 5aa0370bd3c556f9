-- timers: one sorted set of due times per cell (soft). A timer whose cause is gone does nothing.
-- include: keys
-- include: later
local timers = {}
function timers.set(due_ms, kind, id)
  later.add(keys.timers, string.format('%d', due_ms), kind .. '|' .. id)
end
function timers.drop(kind, id)
  later.drop(keys.timers, kind .. '|' .. id)
end
-- When it is due, or nil.
function timers.due(kind, id)
  later.flush_set(keys.timers)
  return tonumber(redis.call('ZSCORE', keys.timers, kind .. '|' .. id))
end
