#!lua flags=allow-oom
-- heartbeat_node: renew the registration. The reply names the attempts that the node no longer
-- holds (rule 13, node registration).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            node name
--   epoch_arg       number
--   load            number                 as the node reports it; no decision uses the value
--   then per lease, at most 256: job_key, attempt (that the node believes to hold)
-- Reply: [job_key…] of the attempts that the node no longer holds
-- Refusals: NODE_UNKNOWN, NODE_SUPERSEDED, NODE_DRAINED, INVALID_MESSAGE
-- Events: none
-- Bound: the leases given, at most 256
-- include: clock
-- include: jobs
-- include: keys
-- include: nodes
-- include: numbers
-- include: validate
-- include: write
local node, epoch = nodes.get(name), validate.int(epoch_arg, 0, 1e9)
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not validate.int(load, 0, 1e6) then return validate.invalid('load', 'a whole number') end
local refusal = nodes.refusal(name, node, epoch)
if refusal then return refusal end
write('HSET', keys.of('node', name), 'seen', clock.text(), 'load', load)
local lost_jobs = {}
for _, lease in each_lease(ARGV) do
  local job = jobs.find_header(lease.job_key) -- the node has lost a damaged job
  local is_held = job and job.status == 'running' and job.node == name and job.epoch == epoch
    and numbers.text[job.attempt] == lease.attempt
  if not is_held then lost_jobs[#lost_jobs + 1] = lease.job_key end
end
return lost_jobs
