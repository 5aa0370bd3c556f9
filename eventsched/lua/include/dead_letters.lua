-- dead_letters: entries and timers that could not be processed, with the error. `partial` is 1 when
-- the processing had written something before it failed.
-- include: cache
-- include: call
-- include: clock
-- include: keys
-- include: strings
-- include: write
local dead_letters = {}

-- The failure may have been anywhere: calls that follow read everything anew.
function dead_letters.add(from, id, kind, d, failure)
  local partial = call.has_written and '1' or '0'
  cache.invalidate()
  write('XADD', keys.dead_letters, clock.entry_id(), 'from', from, 'id', id, 'k', kind, 'd', d,
    'reason', strings.error_text(failure), 'partial', partial)
end

-- Call `process(...)`; an error becomes a dead letter, and the caller goes on. Returns whether it
-- succeeded, and the first two results.
function dead_letters.guard(from, id, kind, d, process, ...)
  call.has_written = false
  local is_done, first, second = pcall(process, ...)
  if not is_done then dead_letters.add(from, id, kind, d, first) end
  return is_done, first, second
end
return dead_letters
