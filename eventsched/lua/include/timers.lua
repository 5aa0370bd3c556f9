-- timers: one sorted set of due times per cell. A timer may be left over after its cause has ended,
-- so its handler checks the cause. `due` is in ms.
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

-- Cancel two kinds of timer with the same id.
function timers.cancel_both(kind, other, id)
  write('ZREM', keys.timers, kind .. '|' .. id, other .. '|' .. id)
end
return timers
