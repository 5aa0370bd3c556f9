#!lua flags=allow-oom
-- discard_dead_letters: delete dead letters without processing them: events that a read model could
-- not fold, which the log keeps, and entries that no release can read. Any other dead letter is
-- work that no other call does.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   request         name                   of the act: repeated, it returns the reply of the act
--   filter          text, at most 500 B    how the operator chose the dead letters; or empty
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
--   then per letter, at most 128: dead_id
-- Reply: per dead letter `discarded`, or `work` or `unknown`, which change nothing
-- Refusals: INVALID_MESSAGE
-- Events: DeadLettersDiscarded
-- Bound: the dead letters given, at most 128; 1,025 requests
-- include: dispatch_entry
-- include: events
-- include: keys
-- include: operator
-- include: reply
-- include: write

local function word_of(id)
  local stored = redis.call('XRANGE', keys.dead_letters, id, id)[1]
  if not stored then return 'unknown' end
  local dead = reply.by_name(stored[2])
  local is_work = dead.from == 'timers' or dead.k == 'fill'
    or dead.from == 'dispatch' and pcall(dispatch_entry.decode, dead.d)
  return is_work and 'work' or 'discarded'
end

-- In each call:
local letters = {}
for i, letter in each_letter(ARGV) do letters[i] = letter.dead_id end
local act, answer = operator.act_on_letters('discard', letters, filter, request, why, by)
if answer then return answer end

local words, ids, is_given = {}, {}, {}
for _, id in ipairs(letters) do
  local word = is_given[id] and 'unknown' or word_of(id)
  is_given[id] = true
  words[#words + 1] = word
  if word == 'discarded' then ids[#ids + 1] = id end
end
if #ids == 0 then return words end
events.DeadLettersDiscarded({ first = ids[1], last = ids[#ids], count = #ids, filter = filter },
  { why = why, by = by })
write('XDEL', keys.dead_letters, unpack(ids))
return operator.record(request, act, words)
