-- timers: one sorted set of due times per cell. A timer may be left over after its cause has ended,
-- so its handler checks the cause. `due` is in ms. `stalled_timers` counts, by timer, the calls in
-- a row in which a handler could do nothing although the cause holds.
-- include: call
-- include: clock
-- include: keys
-- include: numbers
-- include: write
local timers = { has_backed_off = nil }
local pause_ms_min, pause_ms_max = 1000, 300000

-- The timers that this call has set back; nil for none.
call.on_begin(function() timers.has_backed_off = nil end)

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

-- The handler of the timer `kind|id` could do nothing: the timer is due after a pause that doubles
-- with each call, from 1 s to 5 min. Returns the number of such calls in a row.
function timers.back_off(member)
  local count = tonumber(write('ZADD', keys.stalled_timers, 'INCR', '1', member))
  local pause_ms = math.min(pause_ms_min * 2 ^ (count - 1), pause_ms_max)
  write('ZADD', keys.timers, numbers.text[clock.now() + pause_ms], member)
  timers.has_backed_off = timers.has_backed_off or {}
  timers.has_backed_off[member] = true
  return count
end

-- The timer has fired with effect, or no longer exists: it is not stalled.
function timers.clear_stall(member)
  local set_back = timers.has_backed_off
  if not (set_back and set_back[member]) then write('ZREM', keys.stalled_timers, member) end
end
return timers
