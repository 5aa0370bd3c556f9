#!lua flags=allow-oom
-- drain_node: the node gets no new jobs. The jobs that it still holds after `within_ms` are
-- dispatched to other nodes (rule 13, node registration).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            node name
--   epoch_arg       number
--   within_ms       ms                     time to finish its attempts; 0: hand them back now
-- Reply: live attempts left
-- Refusals: NODE_UNKNOWN, NODE_SUPERSEDED, NODE_DRAINED, INVALID_MESSAGE
-- Events: NodeDraining, NodeDrained, AttemptEnded, JobDispatched, JobQueued, JobFailed,
--   ResultDelivered
-- Bound: 16 leases, 8 fills each
-- include: attempts
-- include: clock
-- include: nodes
-- include: timers
-- include: validate
local node, epoch = nodes.get(name), validate.int(epoch_arg, 0, 1e9)
local within = validate.int(within_ms, 0, 300000)
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not within then return validate.invalid('within_ms', '0 to 300000 ms') end
local refusal = nodes.refusal(name, node, epoch)
if refusal then return refusal end
timers.set(clock.now() + within, 'drain', name)
if node.status == 'alive' then nodes.start_drain(node) end
if within == 0 then attempts.requeue_leases(name, epoch, 'drained') end
nodes.finish_drain(node)
return nodes.lease_count(node)
