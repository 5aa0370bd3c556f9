-- timers: one sorted set of due times per cell (soft). A timer whose cause is gone does nothing.
-- include: keys
-- include: write
-- include: text
local timers = {}
-- `due` in ms, a number or already text.
function timers.set(due, kind, id)
  if type(due) == 'number' then due = text.of(due) end
  write('ZADD', keys.timers, due, kind .. '|' .. id)
end
function timers.drop(kind, id)
  write('ZREM', keys.timers, kind .. '|' .. id)
end
-- Of two kinds with the same id.
function timers.drop_both(kind, other, id)
  write('ZREM', keys.timers, kind .. '|' .. id, other .. '|' .. id)
end
-- When it is due, or nil.
function timers.due(kind, id)
  return tonumber(redis.call('ZSCORE', keys.timers, kind .. '|' .. id))
end
