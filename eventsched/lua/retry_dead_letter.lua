#!lua flags=allow-oom
-- retry_dead_letter: process a dead letter again: a new entry in `work`, or the timer at once.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   dead_id         id of an entry in `dead`
--   force           0 | 1                  1: also one that had begun to write (`partial`)
-- Reply: [word, retried, passed_over], the numbers counting targets (1 for a fill or a timer)
--   retried         it is processed again; its entry in `dead` is gone
--   passed_over     every target has its job or its outcome already; its entry is gone
--   partial         had begun to write: nothing done without force
--   projection      an event that could not be folded: a rebuild helps; nothing done
--   unreadable      no entry of `work`: nothing done
--   unknown         no such entry
-- Refusals: INVALID_MESSAGE
-- Events: none (what is processed again appends its own)
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
  return validate.invalid('id', 'the id of an entry in dead')
end

local found = redis.call('XRANGE', keys.dead_letters, dead_id, dead_id)[1]
if not found then return { 'unknown', 0, 0 } end
local letter = reply.by_name(found[2])
if letter.from ~= 'dispatch' and letter.from ~= 'timers' then return { 'projection', 0, 0 } end
if letter.partial == '1' and force ~= '1' then return { 'partial', 0, 0 } end

local retried, passed_over = 1, 0
if letter.from == 'timers' then
  local kind, id = string.match(letter.id, '^(%a+)|(.*)$')
  timers.set(clock.now(), kind, id)
elseif letter.k == 'fill' then
  dispatch_entry.append_fill(letter.d)
else
  local is_readable, entry = pcall(dispatch_entry.decode, letter.d)
  if not is_readable then return { 'unreadable', 0, 0 } end
  entry.targets, passed_over = utterance_jobs.missing(entry)
  retried = #entry.targets
  if retried > 0 then dispatch_entry.append(entry) end
end
write('XDEL', keys.dead_letters, dead_id)
return { retried > 0 and 'retried' or 'passed_over', retried, passed_over }
