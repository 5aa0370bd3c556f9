-- node_timers: the timers of a node: leases (rule 19, lease duration); node, lost, drain and gone
-- (rule 13, node registration); suspension (rule 14, suspended nodes).
-- include: assign
-- include: attempts
-- include: call
-- include: clock
-- include: dead_letters
-- include: events
-- include: jobs
-- include: keys
-- include: nodes
-- include: settings
-- include: strings
-- include: timers
local node_timers = {}

local function end_lease(job_key)
  attempts.redispatch(jobs.load(job_key), 'lease', nil, '')
end

-- Dispatch the jobs of expired leases of a registration again, 16 a call, and set the timer to the
-- time at which more leases may have expired. Returns true if that time is in the past: timers that
-- were due later wait for the next call, so that a late timer catches up in order.
function node_timers.leases(id, at)
  local name, epoch = string.match(id, '^(.-)|(%d+)$')
  local expired, next_ms, has_live = attempts.expired_leases(name, epoch, at)
  if not next_ms then return false end
  local ended, has_failed = 0, false
  for i = 1, math.min(#expired, attempts.requeued_max) do
    call.has_written = false
    local is_done, failure = pcall(end_lease, expired[i])
    if is_done then
      ended = ended + 1
    elseif not has_failed then
      has_failed = true
      dead_letters.back_off('leases|' .. id, failure)
    end
  end
  if ended == 0 and not has_live and not has_failed then timers.back_off('leases|' .. id) end
  if ended == 0 and not has_live then return false end
  -- If no lease could be ended, the timer is not due at once.
  if ended > 0 and #expired > attempts.requeued_max then next_ms = at end
  timers.set_earlier(next_ms, 'leases', id)
  return next_ms <= clock.now()
end

-- No heartbeat came within `node_lost_ms`: the registration has ended.
function node_timers.node(name)
  local node = nodes.get(name)
  if not node or node.status == 'gone' then return end
  local seen = tonumber(redis.call('HGET', keys.of('node', name), 'seen')) or 0
  local due = seen + settings.node_lost_ms
  if due > clock.now() then return timers.set(due, 'node', name) end
  attempts.end_registration(node, 'silent', 'node_lost')
  attempts.requeue_leases(name, node.epoch, 'node_lost')
end

-- Requeue more leases of a registration that has ended, or that drains.
function node_timers.lost(id)
  local full, epoch, reason = string.match(id, '^(.-)|(%d+)|(.*)$')
  local name, epoch_no = keys.name(full), tonumber(epoch)
  -- A call failed before the registration had ended.
  if reason ~= 'drained' and nodes.is_current(nodes.get(name), epoch_no) then return end
  attempts.requeue_leases(name, epoch_no, reason)
end

-- The time to drain is over: the remaining leases are dispatched again.
function node_timers.drain(name)
  local node = nodes.get(name)
  if not node or node.status ~= 'draining' then return end
  attempts.requeue_leases(name, node.epoch, 'drained')
  nodes.finish_drain(node)
end

-- The node is gone, and its record is deleted `node_retention_ms` after its last heartbeat. A node
-- that has registered again keeps its record, and so does one whose jobs are not dispatched again
-- yet.
function node_timers.gone(name)
  local node = nodes.get(name)
  if not node or node.status ~= 'gone' then return end
  local due = nodes.retention_end(name)
  if due > clock.now() then return timers.set(due, 'gone', name) end
  if nodes.has_leases(node) then
    return timers.set(clock.now() + settings.node_lost_ms, 'gone', name)
  end
  nodes.retire(node)
end

-- A suspension has ended: the node can be chosen again for the subject.
function node_timers.suspension(id)
  local name, subject = string.match(id, '^(.-)|(.*)$')
  local node = nodes.get(name)
  if not node or node.status == 'gone' then return end
  if not strings.set_of(node.suspended)[subject] then return end
  local suspended = {}
  for _, other in ipairs(strings.split(node.suspended)) do
    if other ~= subject then suspended[#suspended + 1] = other end
  end
  nodes.set_suspended(node, suspended)
  local scope, name_of_subject = nodes.scope_of(subject)
  events.NodeResumed(node, scope, name_of_subject, 'expired')
  assign.fill(node, '')
end
return node_timers
