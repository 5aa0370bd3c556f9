-- job_timers: the timers of a waiting job: age and wait (rules 18, fair waiting; 20, dispatching
-- again).
-- include: attempts
-- include: classes
-- include: jobs
-- include: queue
local job_timers = {}

-- The job has waited for half of its time: it gets the highest priority.
function job_timers.age(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'queued' or job.priority == 0 then return end
  queue.promote(job)
end

-- The queue timeout has passed: the job fails.
function job_timers.wait(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'queued' then return end
  local _, is_declared = classes.matching(job.source, job.target, job.features)
  queue.remove(job)
  attempts.fail(job, queue.reason(is_declared), '')
  queue.cancel_timers(job)
end
return job_timers
