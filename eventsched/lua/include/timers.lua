-- timers: one sorted set of due times per cell (soft). A timer whose cause is gone does nothing.
-- include: keys
-- include: write
local timers = {}
function timers.set(due_ms, kind, id)
  write('ZADD', keys.timers, string.format('%d', due_ms), kind .. '|' .. id)
end
-- Set only if there is none: an earlier due time stays.
function timers.keep(due_ms, kind, id)
  write('ZADD', keys.timers, 'NX', string.format('%d', due_ms), kind .. '|' .. id)
end
function timers.drop(...)
  write('ZREM', keys.timers, ...)
end
