#!lua flags=allow-oom
-- repair_job: complete a step that the log has begun. The stored record of the job equals the fold
-- of the log up to `at`, as far as a record can.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   at              log id                 last entry of the fold
--   job_key         job key
--   step            retry | cancel | requeue | fail
--                   retry: the attempt of the record has ended, and nothing has followed
--                   cancel: the job has ended, and its attempt has not
--                   requeue: the attempt holds a slot that its node does not have
--                   fail: the job cannot succeed: its audio is lost, or it has no outcome
--   reason          text, at most 1,000 B  of the attempt's end
--   code            text, at most 1,000 B  of the attempt's end, or of the failure; or empty
--   what            text, at most 1,000 B  of the event, as the next three
--   gives_up        text, at most 1,000 B  or empty
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
-- Reply: repaired, or moved (a later entry concerns the job: compute the change again)
-- Refusals: INVALID_MESSAGE
-- Events: CellRepaired, AttemptEnded, JobDispatched, JobQueued, JobFailed, ResultDelivered,
--   NodeDrained, SessionClosed
-- Bound: one delivery and 16 held ones, 8 fills and the session's open outcomes
-- include: assign
-- include: attempts
-- include: entry_ids
-- include: events
-- include: jobs
-- include: repair
-- include: validate
local steps = { retry = true, cancel = true, requeue = true, fail = true }
if not entry_ids.is_valid(at) then return validate.invalid('at', 'an entry id') end
if not steps[step] then return validate.invalid('step', 'retry, cancel, requeue or fail') end
local refusal = repair.refusal(why, by, what, gives_up, reason, code)
if refusal then return refusal end
local job = jobs.load(job_key)
if not job or repair.has_moved(at, { job_key }) then return 'moved' end
events.CellRepaired({ session = job.session, job = job_key, node = '', where = 'job:' .. job_key,
  what = what, gives_up = gives_up, accepts = '', why = why, by = by })
local freed
if step == 'retry' then
  attempts.retry(job, reason, code, '', nil)
elseif step == 'requeue' then
  attempts.redispatch(job, reason, nil, '')
elseif step == 'cancel' then
  freed = attempts.stop(job, 'cancelled', nil, '')
elseif job.status ~= 'ended' then
  if job.status == 'running' then
    freed = attempts.stop(job, 'failed', code, '')
    attempts.fail(job, code, '')
  else
    attempts.end_wait(job, function() attempts.fail(job, code, '') end)
  end
end
if freed then assign.fill(freed, '') end
return 'repaired'
