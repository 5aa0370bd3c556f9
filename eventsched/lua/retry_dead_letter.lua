#!lua flags=allow-oom
-- retry_dead_letter: process a dead letter again, as a new entry in the dispatch queue or as a
-- timer that is due at once.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   dead_id         id of a dead letter
--   force           0 | 1                  1: even if the failed attempt had written (`partial`)
-- Reply: [word, retry_count, skip_count], the numbers counting targets (1 for a fill or a timer)
--   retry_count         the entry is processed again; the dead letter is deleted
--   skip_count     every target has a job or an ended outcome; the dead letter is deleted
--   partial         the failed attempt had written: nothing changes without force
--   projection      an event that could not be folded: nothing changes; a rebuild folds it
--   unreadable      no entry of the dispatch queue: nothing changes
--   unknown         no such dead letter
-- Refusals: INVALID_MESSAGE
-- Events: none (the later processing appends its own)
-- Bound: 32 targets of one entry, the open outcomes of its session
-- include: clock
-- include: dispatch_entry
-- include: keys
-- include: reply
-- include: timers
-- include: utterance_jobs
-- include: validate
-- include: write
if not string.match(dead_id, '^%d+%-%d+$') then
  return validate.invalid('id', 'the id of a dead letter')
end

local stored = redis.call('XRANGE', keys.dead_letters, dead_id, dead_id)[1]
if not stored then return { 'unknown', 0, 0 } end
local letter = reply.by_name(stored[2])
if letter.from ~= 'dispatch' and letter.from ~= 'timers' then return { 'projection', 0, 0 } end
if letter.partial == '1' and force ~= '1' then return { 'partial', 0, 0 } end

local retry_count, skip_count = 1, 0
if letter.from == 'timers' then
  local kind, id = string.match(letter.id, '^(%a+)|(.*)$')
  timers.set(clock.now(), kind, id)
elseif letter.k == 'fill' then
  dispatch_entry.append_fill(letter.d)
else
  local is_readable, entry = pcall(dispatch_entry.decode, letter.d)
  if not is_readable then return { 'unreadable', 0, 0 } end
  entry.targets, skip_count = utterance_jobs.missing(entry)
  retry_count = #entry.targets
  if retry_count > 0 then dispatch_entry.append(entry) end
end
write('XDEL', keys.dead_letters, dead_id)
return { retry_count > 0 and 'retried' or 'passed_over', retry_count, skip_count }
