-- dead_letters: entries and timers that could not be processed, with the error. `partial` is 1 if
-- the processing wrote something before it failed.
-- include: cache
-- include: call
-- include: clock
-- include: keys
-- include: strings
-- include: timers
-- include: write
local dead_letters = {}

-- The cache may not match Redis after a failure, so later calls read everything again.
function dead_letters.add(from, id, kind, d, failure)
  local partial = call.has_written and '1' or '0'
  cache.invalidate()
  write('XADD', keys.dead_letters, clock.entry_id(), 'from', from, 'id', id, 'k', kind, 'd', d,
    'reason', strings.error_text(failure), 'partial', partial)
end

-- A handler of the timer has failed: the timer is due again after a pause. The first of several
-- failures in a row becomes a dead letter; the others are counted.
function dead_letters.back_off(member, failure)
  local has_written = call.has_written
  local count = timers.back_off(member)
  call.has_written = has_written
  if count == 1 then
    dead_letters.add('timers', member, 'timer', '', failure)
  else
    cache.invalidate()
  end
end

-- Call `process(id, kind, d)`. An error becomes a dead letter, and the caller continues. Returns
-- whether the call succeeded, and its first three results.
function dead_letters.guard(from, process, id, kind, d)
  call.has_written = false
  local is_done, first, second, third = pcall(process, id, kind, d)
  if not is_done then dead_letters.add(from, id, kind, d or '', first) end
  return is_done, first, second, third
end
return dead_letters
