-- attempts: ends attempts that have no result, and starts the next ones (rules 13, node
-- registration; 14, suspended nodes; 20, dispatching again; 25, ordered delivery).
-- include: assign
-- include: backoff
-- include: call
-- include: clock
-- include: delivery
-- include: events
-- include: handler_error
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

local code_of_reason = { lease = 'JOB_TIMEOUT', node_lost = 'NODE_LOST', superseded = 'NODE_LOST',
  drained = 'NODE_LOST' }

local function send_cancel(job, reason)
  write('XADD', keys.of('inbox', job.node), clock.entry_id(), 't', 'cancel',
    'j', job.key, 'c', '', 'd', cjson.encode({ attempt = job.attempt, epoch = job.epoch,
      reason = reason }), 'b', '')
end

-- End the attempt: release its slot and send its node a cancel. The slot is released first: a lease
-- that is gone cannot end twice. `report` is the report of a node that failed, or nil. Returns the
-- node if it can take a job.
function attempts.stop(job, reason, code, cause, report)
  local node = nodes.release_slot(job, function()
    events.AttemptEnded(job, reason, code, cause, report)
  end)
  send_cancel(job, reason)
  return node
end

-- The job ends as failed, and so does its outcome. `report` as for `stop`: the listeners receive
-- why the last attempt failed.
function attempts.fail(job, code, cause, report)
  jobs.set_ended(job, 'failed', code)
  call.or_else(jobs.restore, events.JobFailed, job, code, cause)
  delivery.publish(job.name, job.target, job.delivery_no,
    { kind = 'failed', code = code, job = job.key, cause = cause, tp = job.tp,
      error = handler_error.as_json(report), finalized = job.finalized })
end

-- Dispatch or queue the next attempt, or let the job back off first after a retryable failure that
-- its node reports. After three re-dispatches the job fails. `report` as for `stop`.
function attempts.retry(job, reason, code, cause, freed, report)
  if job.attempt > attempts.redispatched_max then
    attempts.fail(job, json.optional(code) or code_of_reason[reason], cause, report)
    return
  end
  job.avoid, job.attempt = job.node, job.attempt + 1
  local delay_ms = report and reason == 'failed'
    and backoff.delay_ms(job, tonumber(report.retry_in_ms)) or 0
  if delay_ms > 0 then
    backoff.start(job, delay_ms, cause)
  else
    assign.place(job, cause, freed)
  end
end

-- Stop the attempt and start the next one, on another node or after a backoff; then fill the freed
-- slot. If the next one cannot be started, a timer starts it. `cause` is that of the attempt's end
-- alone. `report` as for `stop`.
function attempts.redispatch(job, reason, code, cause, report)
  local id = table.concat({ job.key, numbers.text[job.attempt], reason, code or '' }, '|')
  local freed, has_ended
  call.or_else(function()
    if has_ended then timers.set(clock.now(), 'retry', id) end
  end, function()
    freed = nodes.release_slot(job, function()
      events.AttemptEnded(job, reason, code, cause, report)
      has_ended = true
    end)
    send_cancel(job, reason)
    attempts.retry(job, reason, code, '', freed, report)
  end)
  if freed then assign.fill(freed, '') end
end

-- Returns the id of the timer.
local function set_lost_timer(name, epoch, reason)
  local id = string.format('%s|%d|%s', keys.full(name), epoch, reason)
  timers.set(clock.now(), 'lost', id)
  return id
end

-- Dispatch the jobs of a registration that has ended again: 16 leases a call, the rest in a timer
-- that is due at once. The timer is set first, so that it continues if this call fails. The loss of
-- the registration is the cause of each attempt's end. A lease without a running attempt is
-- released: `verify` reports it.
function attempts.requeue_leases(name, epoch, reason)
  local leases = keys.of('leases', name, string.format('%d', epoch))
  local job_keys = redis.call('ZRANGE', leases, 0, attempts.requeued_max - 1)
  if not job_keys[1] then return end
  local id = set_lost_timer(name, epoch, reason)
  local cause = reason == 'drained' and '' or nodes.loss_of(name, epoch)
  for _, job_key in ipairs(job_keys) do
    local job = jobs.find(job_key)
    if job and job.status == 'running' and job.node == name and job.epoch == epoch then
      attempts.redispatch(job, reason, nil, cause)
    else
      nodes.release_slot({ node = name, epoch = epoch, key = job_key })
    end
  end
  if redis.call('EXISTS', leases) == 0 then timers.cancel('lost', id) end
end

-- The leases of a registration that have expired at `at`, in the order of their ends; the next time
-- at which leases may have expired, nil if the registration holds none; and whether it holds leases
-- that have not expired. A lease younger than 15 s cannot have expired and is not read.
function attempts.expired_leases(name, epoch, at)
  local leases, youngest = keys.of('leases', name, epoch), numbers.text[at - nodes.lease_ms_min]
  local old = redis.call('ZRANGEBYSCORE', leases, '-inf', youngest)
  local young = redis.call('ZRANGEBYSCORE', leases, '(' .. youngest, '+inf', 'WITHSCORES', 'LIMIT',
    '0', '1')
  local expired, ends, has_live = {}, {}, young[1] ~= nil
  local next_ms = (tonumber(young[2]) or clock.now()) + nodes.lease_ms_min
  for _, job_key in ipairs(old) do
    local end_ms = jobs.lease_deadline(job_key) -- nil without a running job: `verify` reports it
    if end_ms and end_ms <= at then
      ends[job_key] = end_ms
      expired[#expired + 1] = job_key
    elseif end_ms then
      has_live, next_ms = true, math.min(next_ms, end_ms)
    end
  end
  table.sort(expired, function(a, b)
    if ends[a] ~= ends[b] then return ends[a] < ends[b] end
    return strings.precedes(a, b)
  end)
  return expired, (old[1] or young[1]) and next_ms, has_live
end

-- The registration has ended. The caller requeues its leases; if it cannot, the timer does.
function attempts.end_registration(node, reason, code)
  local leases = nodes.lease_count(node)
  if leases > 0 then set_lost_timer(node.name, node.epoch, code) end
  nodes.deregister(node)
  local id = events.NodeLost(node, reason, leases)
  if leases > 0 then nodes.set_loss(node, id) end
end

-- A job that waits for a slot, or that backs off, waits no longer. `store_end` stores its end: if
-- the call fails before, the timers of the job end it.
function attempts.end_wait(job, store_end)
  local backs_off = job.status == 'backoff'
  if not backs_off then queue.remove(job) end
  store_end()
  if backs_off then
    backoff.cancel(job)
  else
    queue.cancel_timers(job)
  end
end

-- The outcome of the job has been skipped: the job ends in the same step (rule 25, ordered
-- delivery). Returns the node that can take a job now. The caller fills the node after all skips;
-- otherwise the slot could go to a job that is skipped next.
function attempts.cancel(job, cause)
  if job.status == 'queued' or job.status == 'backoff' then
    attempts.end_wait(job, function() jobs.set_ended(job, 'missing') end)
  elseif job.status == 'running' then
    jobs.set_ended(job, 'missing')
    return attempts.stop(job, 'cancelled', nil, cause)
  end
  return nil
end
return attempts
