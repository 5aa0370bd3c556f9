#!lua flags=allow-oom
-- extend_lease: extend the lease of an attempt, to at most 300 s after its dispatch (rule 19, lease
-- duration).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   node            node name
--   epoch_arg       number
--   job_key         job key
--   attempt_arg     number
--   more_ms         ms                     from now
-- Reply: the deadline in ms
-- Refusals: JOB_UNKNOWN, NODE_MISMATCH, ATTEMPT_MISMATCH, LEASE_LOST, DUPLICATE_RESULT,
--   INVALID_MESSAGE
-- Events: none; for a refused extension ResultRefused, unless the job is unknown
-- Bound: constant
-- include: clock
-- include: fencing
-- include: jobs
-- include: numbers
-- include: validate
local lease_ms_max = 300000
local epoch, attempt = validate.int(epoch_arg, 0, 1e9), validate.int(attempt_arg, 1, 1e6)
local more = validate.int(more_ms, 1, lease_ms_max)
if not validate.is_name(node) then return validate.invalid('node', 'a name') end
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not attempt then return validate.invalid('attempt', 'a whole number') end
if not more then return validate.invalid('more_ms', '1 to 300000 ms') end
local job = jobs.load(job_key)
if not job then return validate.refuse('JOB_UNKNOWN') end
local refusal = fencing.refusal(job, node, epoch, attempt)
if refusal then
  fencing.record_refusal(job, node, epoch, attempt, 'extend', refusal)
  return validate.refuse(refusal)
end
local deadline_ms = math.max(tonumber(job.deadline),
  math.min(clock.now() + more, tonumber(job.at) + lease_ms_max))
jobs.set_deadline(job, numbers.text[deadline_ms])
return deadline_ms
