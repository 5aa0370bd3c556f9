-- dead_letters: what could not be processed, parked with its reason; `partial` when it had begun to write.
-- include: call
-- include: clock
-- include: keys
-- include: strings
-- include: write
local dead_letters = {}
-- It may have ended anywhere: what is known of the cell may not be what is written.
function dead_letters.add(from, id, kind, d, reason)
  local partial = call.has_written and '1' or '0'
  clock.forget()
  write('XADD', keys.dead_letters, clock.entry_id(), 'from', from, 'id', id, 'k', kind, 'd', d,
    'reason', strings.error_text(reason), 'partial', partial)
end
return dead_letters
