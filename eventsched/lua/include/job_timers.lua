-- job_timers: the timers of a job: age and wait while it waits (rule 18, fair waiting), backoff and
-- avoid after a failure (rule 20, dispatching again), and retry after a call that failed.
-- include: assign
-- include: attempts
-- include: backoff
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

-- The backoff is over: the next attempt can start.
function job_timers.backoff(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'backoff' then return end
  backoff.finish(job)
end

-- The node of the last attempt was avoided for long enough: it can take the job as well.
function job_timers.avoid(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'queued' or not job.avoid_until then return end
  local node = nodes.find(job.node)
  queue.end_avoidance(job, classes.matching(queue.requirement_of(job)).is_declared)
  if node then assign.fill(node, '') end
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
