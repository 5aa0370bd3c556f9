#!lua flags=allow-oom
-- request_drain: an operator drains a node: the node gets no new jobs, and the jobs that it still
-- holds after `within_ms` are dispatched to other nodes (rule 13, node registration). When the node
-- has no leases left, its registration ends. The process of the node is then refused as
-- NODE_DRAINED: it ends in order and does not register again.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            node name
--   within_ms       ms                     time to finish its attempts; 0: hand them back now
--   request         name                   of the act: repeated, it returns the reply of the act
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
-- Reply: [epoch, leases]: the registration, and its live attempts left; 0 if it has ended
-- Refusals: NODE_UNKNOWN, INVALID_MESSAGE
-- Events: NodeDraining, NodeDrained, AttemptEnded, JobDispatched, JobQueued, JobFailed,
--   ResultDelivered
-- Bound: 16 leases, 8 fills each; 1,025 requests
-- include: attempts
-- include: clock
-- include: nodes
-- include: operator
-- include: timers
-- include: validate
local within = validate.int(within_ms, 0, 300000)
if not within then return validate.invalid('within_ms', '0 to 300000 ms') end
local refusal = operator.refusal(request, why, by)
if refusal then return refusal end
local act = 'drain ' .. name
local earlier = operator.earlier_reply(request, act)
if earlier then return earlier end
local node = nodes.get(name)
if not node or node.status == 'gone' then return validate.refuse('NODE_UNKNOWN') end

timers.set(clock.now() + within, 'drain', name)
if node.status == 'alive' then
  nodes.start_drain(node, by, why)
else
  nodes.join_drain(node, by, why)
end
if within == 0 then attempts.requeue_leases(name, node.epoch, 'drained') end
nodes.finish_drain(node)
return operator.record(request, act, { node.epoch, nodes.lease_count(node) })
