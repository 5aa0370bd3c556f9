-- job_timers: the timers of a job: age and wait while it waits (rules 18, fair waiting; 20,
-- dispatching again), and retry after a call that failed.
-- include: attempts
-- include: classes
-- include: jobs
-- include: nodes
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
  local matching = classes.matching(queue.requirement_of(job))
  queue.remove(job)
  attempts.fail(job, queue.reason(matching.is_declared), '')
  queue.cancel_timers(job)
end
-- An attempt has ended, and the call failed before it had started the next one.
function job_timers.retry(id)
  local job_key, attempt, reason, code = string.match(id, '^([^|]*)|(%d+)|(%a[%a_]*)|(.*)$')
  local job = jobs.load(job_key)
  if not job or job.status ~= 'running' or job.attempt ~= tonumber(attempt) then return end
  if nodes.holds(job) then return end
  attempts.retry(job, reason, code, '', nil)
end
return job_timers
