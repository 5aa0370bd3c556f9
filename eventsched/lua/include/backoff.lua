-- backoff: the wait of a job between a retryable failure that its node reports and the next attempt
-- (rule 20, dispatching again). The job is in no queue meanwhile, but counts as a waiting job of
-- its tenant, and a timer ends the wait. The job keeps the tag of its first wait.
-- include: assign
-- include: call
-- include: clock
-- include: events
-- include: jobs
-- include: keys
-- include: numbers
-- include: queue
-- include: settings
-- include: timers
-- include: write
local backoff = {}
local delay_ms_max, factor, quarter_of_16_bits = 10000, 4, 262144
local as_text = numbers.text

-- How long the job waits before the attempt `job.attempt`, in ms: `asked_ms`, or the setting times
-- 4 for each earlier backoff, and up to a quarter more, so that jobs that failed together are not
-- dispatched together. The addition depends on job and attempt only.
function backoff.delay_ms(job, asked_ms)
  local delay_ms = asked_ms
    or math.min(settings.retry_backoff_ms * factor ^ (job.attempt - 2), delay_ms_max)
  local hash = redis.sha1hex(job.key .. '|' .. as_text[job.attempt])
  return delay_ms + math.floor(delay_ms * tonumber(string.sub(hash, 1, 4), 16) / quarter_of_16_bits)
end

local function member_of(job)
  return queue.requirement_of(job) .. ' ' .. job.key
end

local function leave(job)
  if write('ZREM', keys.backoffs, member_of(job)) == 1 then queue.count_waiting(job.tenant, -1) end
end

local function enter(job, not_before)
  if write('ZADD', keys.backoffs, not_before, member_of(job)) == 1 then
    queue.count_waiting(job.tenant, 1)
  end
end

local function start(job, cause, not_before, avoid_until)
  local deadline = as_text[tonumber(not_before) + settings.queue_timeout_ms]
  jobs.set_backing_off(job, not_before, avoid_until)
  enter(job, not_before)
  events.JobQueued(job, 'retry_backoff', cause, as_text[job.tag], deadline, avoid_until,
    not_before)
end

local function undo_start(job)
  leave(job)
  jobs.restore(job)
  timers.cancel('backoff', job.key)
end

-- The job waits for `delay_ms`. For `retry_avoid_ms` after that, its last node is avoided.
function backoff.start(job, delay_ms, cause)
  local not_before = clock.now() + delay_ms
  queue.assign_place(job)
  timers.set(not_before, 'backoff', job.key)
  call.or_else(undo_start, start, job, cause, as_text[not_before],
    as_text[not_before + settings.retry_avoid_ms])
end

local function place(job)
  assign.place(job, '', nil)
end

-- The backoff has ended: the job is dispatched, or queued.
function backoff.finish(job)
  local not_before = job.at
  job.avoid = job.node
  job.avoid_until = clock.now() < tonumber(job.deadline) and job.deadline or nil
  leave(job)
  call.or_else(function() enter(job, not_before) end, place, job)
end

-- The job ends while it backs off. The caller has stored its end.
function backoff.cancel(job)
  leave(job)
  timers.cancel('backoff', job.key)
end
return backoff
