#!lua flags=allow-oom
-- heartbeat_node: the registration is alive; it learns which attempts it no longer holds (rule 13).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   name            node name
--   epoch_arg       number
--   load            number                 as the node sees it; for people, nothing decides by it
--   then per attempt that the node believes to hold: job_key, attempt
-- Reply: [job_key…] of those it no longer holds
-- Refusals: NODE_UNKNOWN, NODE_SUPERSEDED, INVALID_MESSAGE
-- Events: none
-- Bound: the attempts given, at most 256
local log_key = KEYS[1]
local now_arg, name, epoch_arg, load = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held_max = 256
-- include: clock
-- include: jobs
-- include: keys
-- include: nodes
-- include: text
-- include: write
local node, epoch = nodes.get(name), text.int(epoch_arg, 0, 1e9)
if not epoch then return text.invalid('epoch', 'a whole number') end
if not text.int(load, 0, 1e6) then return text.invalid('load', 'a whole number') end
if #ARGV % 2 ~= 0 or (#ARGV - 4) / 2 > held_max then return text.invalid('held', '256 attempts') end
if not nodes.is_current(node, epoch) then
  if node and node.epoch > epoch then
    return text.refuse('NODE_SUPERSEDED', 'epoch=' .. string.format('%d', node.epoch))
  end
  return text.refuse('NODE_UNKNOWN')
end
write('HSET', keys.of('node', name), 'seen', clock.text(), 'load', load)
local lost = {}
for at = 5, #ARGV, 2 do
  local job = jobs.look(ARGV[at])
  local holds = job and job.status == 'running' and job.node == name and job.epoch == epoch
    and text.of[job.attempt] == ARGV[at + 1]
  if not holds then lost[#lost + 1] = ARGV[at] end
end
return lost
