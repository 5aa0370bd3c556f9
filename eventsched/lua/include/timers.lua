-- timers: one sorted set of due times per cell (soft). A timer whose cause is gone does nothing.
-- include: keys
-- include: numbers
-- include: write
local timers = {}
-- `due` in ms, a number or already text.
function timers.set(due, kind, id)
  if type(due) == 'number' then due = numbers.text[due] end
  write('ZADD', keys.timers, due, kind .. '|' .. id)
end
-- As `set`; one that is there already may only come sooner.
function timers.set_earlier(due, kind, id)
  write('ZADD', keys.timers, 'LT', numbers.text[due], kind .. '|' .. id)
end
function timers.cancel(kind, id)
  write('ZREM', keys.timers, kind .. '|' .. id)
end
-- Of two kinds with the same id.
function timers.cancel_both(kind, other, id)
  write('ZREM', keys.timers, kind .. '|' .. id, other .. '|' .. id)
end
return timers
