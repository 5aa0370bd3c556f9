-- timers: one sorted set of due times per cell. A timer may be lost or left over: when it fires,
-- its handler checks that its cause still holds. `due` is in ms.
-- include: keys
-- include: numbers
-- include: write
local timers = {}

-- `due` may be text.
function timers.set(due, kind, id)
  if type(due) == 'number' then due = numbers.text[due] end
  write('ZADD', keys.timers, due, kind .. '|' .. id)
end

-- Like `set`, but a timer that is due earlier stays as it is.
function timers.set_earlier(due, kind, id)
  write('ZADD', keys.timers, 'LT', numbers.text[due], kind .. '|' .. id)
end

function timers.cancel(kind, id)
  write('ZREM', keys.timers, kind .. '|' .. id)
end

-- Two kinds of timer with the same id.
function timers.cancel_both(kind, other, id)
  write('ZREM', keys.timers, kind .. '|' .. id, other .. '|' .. id)
end
return timers
