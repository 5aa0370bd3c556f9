#!lua flags=allow-oom
-- retry_dead: put back what could not be processed: a fresh entry in `work`, or the timer again.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   dead_id         id of an entry in `dead`
--   force           0 | 1                  1: also one that had begun to write (`partial`)
-- Reply: [word, retried, passed_over], the numbers counting targets (1 for a fill or a timer)
--   retried         it goes again; its entry in `dead` is gone
--   passed_over     every target has its job or its outcome already; its entry is gone
--   partial         had begun to write: nothing done without force
--   projection      could not be folded: a rebuild is what helps; nothing done
--   unreadable      is no work: nothing done
--   unknown         no such entry
-- Refusals: INVALID_MESSAGE
-- Events: none (what is put back appends its own)
-- Bound: 32 targets of one entry, the open outcomes of its session
-- include: clock
-- include: dispatch_entry
-- include: keys
-- include: reply
-- include: timers
-- include: utterance_jobs
-- include: validate
-- include: write
if not string.match(dead_id, '^%d+%-%d+$') then return validate.invalid('id', 'the id of an entry in dead') end

local entry = redis.call('XRANGE', keys.dead_letters, dead_id, dead_id)[1]
if not entry then return { 'unknown', 0, 0 } end
local dead = reply.by_name(entry[2])
if dead.from ~= 'dispatch' and dead.from ~= 'timers' then return { 'projection', 0, 0 } end
if dead.partial == '1' and force ~= '1' then return { 'partial', 0, 0 } end

local retried, passed_over = 1, 0
if dead.from == 'timers' then
  local kind, id = string.match(dead.id, '^(%a+)|(.*)$')
  timers.set(clock.now(), kind, id)
elseif dead.k == 'fill' then
  write('XADD', keys.dispatch, clock.entry_id(), 'k', 'fill', 'd', dead.d)
else
  local can_be_read, wanted = pcall(dispatch_entry.decode, dead.d)
  if not can_be_read then return { 'unreadable', 0, 0 } end
  wanted.targets, passed_over = utterance_jobs.missing(wanted)
  retried = #wanted.targets
  if retried > 0 then dispatch_entry.append(wanted) end
end
write('XDEL', keys.dead_letters, dead_id)
return { retried > 0 and 'retried' or 'passed_over', retried, passed_over }
