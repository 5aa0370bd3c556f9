-- job_timers: what happens when a job has waited for long: age, wait (rules 18, 20).
-- include: attempts
-- include: classes
-- include: jobs
-- include: queue
local job_timers = {}

-- Half of its time has passed: the job gets the highest priority.
function job_timers.age(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'queued' or job.priority == 0 then return end
  queue.promote(job)
end

-- The job has waited for as long as it may: it fails.
function job_timers.wait(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'queued' then return end
  local _, is_declared = classes.matching(job.source, job.target, job.features)
  queue.remove(job)
  attempts.fail(job, queue.reason(is_declared), '')
end
return job_timers
