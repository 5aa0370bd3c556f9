#!lua flags=allow-oom
-- extend_lease: the handler needs longer; never beyond 300 s after dispatch (rule 19).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   node            node name
--   epoch_arg       number
--   job_key         job key
--   attempt_arg     number
--   more_ms         ms                     from now
-- Reply: the deadline in ms
-- Refusals: JOB_UNKNOWN, NODE_MISMATCH, ATTEMPT_MISMATCH, LEASE_LOST, DUPLICATE_RESULT,
--   INVALID_MESSAGE
-- Events: none; a refused one is not on record when the job is unknown, else ResultRefused
-- Bound: constant
local held_ms_max = 300000
-- include: clock
-- include: fencing
-- include: jobs
-- include: numbers
-- include: validate
local epoch, attempt = validate.int(epoch_arg, 0, 1e9), validate.int(attempt_arg, 1, 1e6)
local more = validate.int(more_ms, 1, held_ms_max)
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not attempt then return validate.invalid('attempt', 'a whole number') end
if not more then return validate.invalid('more_ms', '1 to 300000 ms') end
local job = jobs.load(job_key)
if not job then return validate.refuse('JOB_UNKNOWN') end
local why = fencing.refusal(job, node, epoch, attempt)
if why then
  fencing.record_refusal(job, node, epoch, attempt, 'extend', why)
  return validate.refuse(why)
end
local now = clock.now()
local deadline_ms = math.max(tonumber(job.deadline),
  math.min(now + more, tonumber(job.at) + held_ms_max))
jobs.set_deadline(job, numbers.text[deadline_ms])
return deadline_ms
