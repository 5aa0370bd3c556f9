#!lua
-- register_node: register a node under a new epoch, with all its slots free (rule 13, node
-- registration).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            node name
--   token           name                   of the process; the same again gets the same reply, and
--                                          NODE_DRAINED once an operator has drained the node
--   sources         languages, joined by comma, sorted, each once, at most 1,024 B
--   targets         languages, joined by comma, sorted, each once, at most 1,024 B
--   features        names, joined by comma, sorted, each once, at most 1,039 B
--   slots           1 to 256
--   version         text
-- Reply: [epoch, inbox_from, heartbeat_ms]
-- Refusals: INVALID_MESSAGE, NODE_DRAINED, BACKPRESSURE
-- Events: NodeLost, NodeRegistered, AttemptEnded, JobDispatched, JobQueued, JobFailed,
--   ResultDelivered
-- Bound: 1,024 pairs of a new class and the cell's waiting requirements; 16 leases; 8 fills each
-- include: assign
-- include: attempts
-- include: backpressure
-- include: cache
-- include: call
-- include: classes
-- include: clock
-- include: events
-- include: keys
-- include: node_failures
-- include: nodes
-- include: numbers
-- include: settings
-- include: strings
-- include: timers
-- include: validate
local classes_max, pairs_max, side_max, features_max, version_max = 4096, 1024, 64, 16, 64
local old = nodes.get(name)
local stored = redis.call('HMGET', keys.of('node', name), 'token', 'inbox_from', 'drained_by')
if old and stored[1] == token then
  if old.status ~= 'gone' then return { old.epoch, stored[2], settings.heartbeat_ms } end
  if (stored[3] or '') ~= '' then return validate.refuse('NODE_DRAINED') end
end
local slots_no = validate.int(slots, 1, 256)
if not keys.name(keys.full(name)) then return validate.invalid('node', 'a name') end
if not validate.is_name(token) then return validate.invalid('token', 'a name') end
if not validate.is_text(version, version_max) then
  return validate.invalid('version', 'text of up to 64 bytes')
end
if not slots_no then return validate.invalid('slots', '1 to 256') end
if sources == '' or not validate.sorted_list_of(sources, side_max, validate.is_language) then
  return validate.invalid('sources', '1 to 64 languages, sorted by bytes, each once')
end
if targets == '' or not validate.sorted_list_of(targets, side_max, validate.is_target) then
  return validate.invalid('targets', '1 to 64 languages, never auto, sorted by bytes, each once')
end
if not validate.sorted_list_of(features, features_max, validate.is_name) then
  return validate.invalid('features', 'up to 16 names, sorted by bytes, each once')
end
if #strings.split(sources) * #strings.split(targets) > pairs_max then
  return validate.invalid('targets', '1024 pairs')
end
local cell_refusal = backpressure.cell_refusal()
if cell_refusal then return validate.refuse(cell_refusal) end
local class_id = classes.id_of(sources, targets, features, '')
if redis.call('SISMEMBER', keys.classes, class_id) == 0
  and redis.call('SCARD', keys.classes) >= classes_max then
  return validate.refuse('INVALID_MESSAGE', 'field=class limit=4096 capability classes in a cell'
    .. ' remedy=declare the languages and features of another node, or register in another cell')
end

local now, epoch_text = clock.now(), nodes.next_epoch(old)
local supersedes = old and old.status ~= 'gone'
if supersedes then attempts.end_registration(old, 'superseded', 'superseded') end
local last = redis.call('XREVRANGE', keys.of('inbox', name), '+', '-', 'COUNT', 1)
local inbox_from = last[1] and last[1][1] or '0-0'
timers.set(now + settings.node_lost_ms, 'node', name)
-- Without its event the registration has no token: the repeated call registers the node again.
local node = call.or_else(function()
  cache.write_stable('HSET', keys.of('node', name), 'token', '')
end, function()
  local new = nodes.register(name, epoch_text, class_id, numbers.text[slots_no], sources, targets,
    features, 'token', token, 'version', version, 'inbox_from', inbox_from, 'seen', clock.text(),
    'load', '0', 'drained_by', '')
  node_failures.clear(name)
  events.NodeRegistered(new, version)
  return new
end)
if supersedes then attempts.requeue_leases(name, old.epoch, 'superseded') end
assign.fill(node, '')
return { node.epoch, inbox_from, settings.heartbeat_ms }
