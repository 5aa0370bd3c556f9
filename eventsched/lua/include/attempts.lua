-- attempts: how a try ends without a result, and what follows (rules 13, 14, 20, 25).
-- include: assign
-- include: clock
-- include: delivery
-- include: events
-- include: jobs
-- include: json
-- include: keys
-- include: nodes
-- include: numbers
-- include: queue
-- include: strings
-- include: timers
-- include: write
local attempts = { redispatched_max = 3, requeued_max = 16 }

local failure_code = { lease = 'JOB_TIMEOUT', node_lost = 'NODE_LOST', superseded = 'NODE_LOST',
  drained = 'NODE_LOST' }

-- The attempt gives its slot back and its node is told. Returns the node if it can take work.
function attempts.stop(job, reason, code, cause)
  events.AttemptEnded(job, reason, code, cause)
  write('XADD', keys.of('inbox', job.node), clock.entry_id(), 't', 'cancel',
    'j', job.key, 'c', '', 'd', cjson.encode({ attempt = job.attempt, epoch = job.epoch,
      reason = reason }), 'b', '')
  return nodes.release_slot(job.node, job.epoch, job.key)
end

function attempts.fail(job, code, cause)
  jobs.set_ended(job, 'failed', code)
  events.JobFailed(job, code, cause)
  delivery.publish(job.name, job.target, job.delivery_no,
    { kind = 'failed', code = code, job = job.key, cause = cause, tp = job.tp })
end

-- The next attempt goes the way a first one goes; after three re-dispatches the job fails.
function attempts.retry(job, reason, code, cause, freed)
  if job.attempt > attempts.redispatched_max then
    attempts.fail(job, json.optional(code) or failure_code[reason], cause)
    return
  end
  job.avoid, job.attempt = job.node, job.attempt + 1
  assign.place(job, cause, freed)
end

-- Stop, try again elsewhere, then let the freed slot serve those who wait.
function attempts.redispatch(job, reason, code, cause)
  local freed = attempts.stop(job, reason, code, cause)
  attempts.retry(job, reason, code, cause, freed)
  if freed then assign.fill(freed, cause) end
end

-- Re-dispatch what a registration that is over held: 16 a call, the rest when the timer that is
-- already due fires again.
function attempts.requeue_leases(name, epoch, reason)
  local leases = keys.of('leases', name, string.format('%d', epoch))
  for _, job_key in ipairs(redis.call('ZRANGE', leases, 0, attempts.requeued_max - 1)) do
    attempts.redispatch(jobs.load(job_key), reason, nil, '')
  end
  if redis.call('EXISTS', leases) == 1 then
    timers.set(clock.now(), 'lost', string.format('%s|%d|%s', keys.full(name), epoch, reason))
  end
end

-- The leases of a registration that are over at `at`, the first to end first; and when to look again,
-- if it holds any. Until a lease is 15 s old it cannot be over and need not be read.
function attempts.expired_leases(name, epoch, at)
  local leases, born = keys.of('leases', name, epoch), numbers.text[at - nodes.lease_ms_min]
  local old = redis.call('ZRANGEBYSCORE', leases, '-inf', born)
  local young = redis.call('ZRANGEBYSCORE', leases, '(' .. born, '+inf', 'WITHSCORES', 'LIMIT', '0', '1')
  local over, ends = {}, {}
  local next_ms = (tonumber(young[2]) or clock.now()) + nodes.lease_ms_min
  for _, job_key in ipairs(old) do
    local end_ms = jobs.lease_deadline(job_key) or next_ms -- without a record none: `verify` tells
    ends[job_key] = end_ms
    if end_ms <= at then over[#over + 1] = job_key else next_ms = math.min(next_ms, end_ms) end
  end
  table.sort(over, function(a, b)
    if ends[a] ~= ends[b] then return ends[a] < ends[b] end
    return strings.precedes(a, b)
  end)
  return over, (old[1] or young[1]) and next_ms
end

-- The registration is over. The caller recovers its leases.
function attempts.end_registration(node, reason)
  local leases = nodes.lease_count(node)
  nodes.deregister(node)
  events.NodeLost(node, reason, leases)
end

-- The job's outcome is given up: whatever it does stops in the same step (rule 25).
-- Returns the node that can take work now: the caller fills it once all that ends has ended, or
-- the slot would go to a job that is given up next.
function attempts.cancel(job, cause)
  if job.status == 'queued' then
    queue.remove(job)
    jobs.set_ended(job, 'missing')
  elseif job.status == 'running' then
    jobs.set_ended(job, 'missing')
    return attempts.stop(job, 'cancelled', nil, cause)
  end
  return nil
end
return attempts
