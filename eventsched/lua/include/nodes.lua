-- nodes: registrations, slots and leases. The load of a node is the count of its leases (rule 16,
-- choosing a node). Leases belong to a registration, which is (node, epoch) (rule 13, node
-- registration).
-- include: cache
-- include: call
-- include: class_nodes
-- include: classes
-- include: clock
-- include: damage
-- include: events
-- include: keys
-- include: numbers
-- include: settings
-- include: strings
-- include: timers
-- include: validate
-- include: write
-- `whole` in the list of suspended subjects is the whole node (module `classes`).
local nodes = { lease_ms_min = 15000, whole = classes.whole_node }
local lost_registrations_max = 16

-- Fields of a registration that few calls need. They are read on first access.
local declared_fields = { sources = true, targets = true, features = true, suspended = true }
local lazy = { __index = function(node, field)
  if not declared_fields[field] then return nil end
  local stored = redis.call('HMGET', keys.of('node', node.name), 'sources', 'targets', 'features',
    'suspended')
  node.sources, node.targets = stored[1], stored[2]
  node.features, node.suspended = stored[3], stored[4]
  return rawget(node, field)
end }

-- `epoch` is text. `leases` is the key of the leases. `affinity` is the evidence for a session that
-- gets its last node again.
local function new(name, status, epoch, class, slots)
  return setmetatable({ name = name, full = keys.full(name), status = status,
    epoch = numbers.value[epoch], epoch_text = epoch, class = class,
    slots = numbers.value[slots],
    inbox = keys.of('inbox', name), leases = keys.of('leases', name, epoch),
    affinity = events.affinity(name, '') }, lazy)
end

-- A record without one of these fields is damaged.
local needed_fields =
  { 'status', 'epoch', 'class', 'slots', 'sources', 'targets', 'features', 'suspended' }

local registrations = cache.register('nodes', 'stable', function(name)
  local stored = redis.call('HMGET', keys.of('node', name), unpack(needed_fields))
  if not stored[1] then return false end
  for i, field in ipairs(needed_fields) do
    if not stored[i] then damage.raise('node:' .. name, field) end
  end
  local node = new(name, stored[1], stored[2], stored[3], stored[4])
  if not node.epoch then damage.raise('node:' .. name, 'epoch') end
  if not node.slots then damage.raise('node:' .. name, 'slots') end
  return node
end)

-- How many leases a registration holds, by the key of its leases.
local lease_counts = cache.register('leases', 'live', function(leases)
  return redis.call('ZCARD', leases)
end)

-- The last registration of a node, whose status is alive, draining or gone; nil for a node that
-- never registered or that is retired.
function nodes.get(name)
  return registrations.read_through(name) or nil
end

-- As `get`; nil also for a damaged record.
function nodes.find(name)
  return registrations.peek(name) or damage.value_or_nil(nodes.get, name)
end

-- The highest epoch of the nodes whose records were deleted.
local function highest_retired_epoch()
  local epoch = numbers.value[redis.call('HGET', keys.counters, 'retired_epoch') or '0']
  if not epoch then damage.raise('counters', 'retired_epoch') end
  return epoch
end

-- The epoch of the next registration, as text. `last` is the last registration or nil. No two
-- registrations of a name have the same epoch, also if the record of the name was deleted between
-- them: fencing depends on it (rule 21, fencing).
function nodes.next_epoch(last)
  return string.format('%d', (last and last.epoch or highest_retired_epoch()) + 1)
end

-- Register the node under this epoch. More fields with their values may follow the features.
function nodes.register(name, epoch, class, slots, sources, targets, features, ...)
  cache.write_stable('HSET', keys.of('node', name), 'status', 'alive', 'epoch', epoch,
    'class', class, 'slots', slots, 'sources', sources, 'targets', targets, 'features', features,
    'suspended', '', ...)
  local node = new(name, 'alive', epoch, class, slots)
  node.sources, node.targets, node.features, node.suspended = sources, targets, features, ''
  registrations.put(name, node)
  classes.join(class, name, node)
  nodes.publish_load(node)
  return node
end

-- Whether the node declares the languages and features of the job. Suspensions are not checked.
function nodes.declares(node, job)
  if not strings.set_of(node.sources)[job.source] then return false end
  if not strings.set_of(node.targets)[job.target] then return false end
  local features = strings.set_of(node.features)
  for _, feature in ipairs(strings.split(job.features)) do
    if not features[feature] then return false end
  end
  return true
end

function nodes.lease_count(node)
  return lease_counts.read_through(node.leases)
end

-- floor(1000 x leases / slots), or nil when no slot is free.
local function load_of(node, leases)
  if leases >= node.slots then return nil end
  local thousands = 1000 * leases
  return (thousands - thousands % node.slots) / node.slots
end

function nodes.has_slot(node)
  return node.status == 'alive' and nodes.lease_count(node) < node.slots
end

-- Write the load of the node to the sorted set of its class.
function nodes.publish_load(node)
  if node.status ~= 'alive' then return end
  class_nodes.set_load(node.class, node.name, load_of(node, nodes.lease_count(node)))
  class_nodes.evict(node.class)
end

-- The number of stored leases has changed from `count` by `change`. The class is updated.
local function change_count(node, count, change)
  lease_counts.put(node.leases, count + change)
  if node.status == 'alive' then
    class_nodes.move(node.class, node.name, load_of(node, count), load_of(node, count + change))
  end
end

-- One timer covers all leases of a registration. The first lease sets the timer to the earliest
-- time at which that lease can end. While a lease is live, no call sets the timer later than its
-- end.
function nodes.acquire_slot(node, job_key)
  local count = nodes.lease_count(node)
  if count == 0 then
    timers.set_earlier(clock.now() + nodes.lease_ms_min, 'leases',
      node.name .. '|' .. node.epoch_text)
  end
  if write('ZADD', node.leases, clock.text(), job_key) == 1 then change_count(node, count, 1) end
end

-- Whether the registration (node, epoch) still serves. `node` may be nil.
function nodes.is_current(node, epoch)
  return node and node.status ~= 'gone' and node.epoch == epoch
end

-- The refusal of a call of a registration that is not current, or nil. A registration that an
-- operator has drained does not register again.
function nodes.refusal(name, node, epoch)
  if nodes.is_current(node, epoch) then return nil end
  if node and node.epoch > epoch then
    return validate.refuse('NODE_SUPERSEDED', 'epoch=' .. node.epoch_text)
  end
  if node and node.epoch == epoch
    and (redis.call('HGET', keys.of('node', name), 'drained_by') or '') ~= '' then
    return validate.refuse('NODE_DRAINED')
  end
  return validate.refuse('NODE_UNKNOWN')
end

-- Release the slot that the registration (job.node, job.epoch) holds for the job. Then call
-- `append`, if there is one, which appends the event of the attempt's end. If that fails, the lease
-- is stored again. Returns the node if it can take a job now; a node whose record is damaged takes
-- none.
function nodes.release_slot(job, append)
  local node = nodes.find(job.node)
  local is_current = nodes.is_current(node, job.epoch)
  local leases = is_current and node.leases
    or keys.of('leases', job.node, string.format('%d', job.epoch))
  local count = is_current and nodes.lease_count(node)
  local is_released = write('ZREM', leases, job.key) == 1
  if append then
    call.or_else(function()
      if is_released then write('ZADD', leases, job.at, job.key) end
    end, append)
  end
  if not is_current then return nil end
  if is_released then change_count(node, count, -1) end
  if node.status == 'draining' then
    nodes.finish_drain(node)
    return nil
  end
  return node
end

-- Whether the registration of the job's attempt holds a lease for the job.
function nodes.holds(job)
  local leases = keys.of('leases', job.node, string.format('%d', job.epoch))
  return redis.call('ZSCORE', leases, job.key) ~= false
end

-- Trim the inbox to the entries since the oldest live attempt.
function nodes.trim_inbox(node)
  local oldest = redis.call('ZRANGE', node.leases, '0', '0', 'WITHSCORES')
  write('XTRIM', node.inbox, 'MINID', oldest[2] or clock.text())
end

local function leave_class(node)
  classes.leave(node.class, node.name)
  if node.status == 'draining' and redis.call('EXISTS', keys.of('class', node.class)) == 1 then
    cache.write_stable('HINCRBY', keys.of('class', node.class), 'draining', -1)
  end
end

-- When the record of the node is deleted if the node is gone and does not return.
function nodes.retention_end(name)
  local seen = tonumber(redis.call('HGET', keys.of('node', name), 'seen')) or 0
  return seen + settings.node_retention_ms
end

-- The registration has ended.
function nodes.deregister(node)
  timers.set(nodes.retention_end(node.name), 'gone', node.name)
  leave_class(node)
  node.status = 'gone'
  cache.write_stable('HSET', keys.of('node', node.name), 'status', 'gone', 'suspended', '')
  timers.cancel_both('node', 'drain', node.name)
end

-- The field `lost` of a node has the epoch of the newest registration that was lost with leases,
-- and the id of its NodeLost: a later call names it as the cause of what it does to the leases.
function nodes.set_loss(node, id)
  cache.write_stable('HSET', keys.of('node', node.name), 'lost', node.epoch_text .. '|' .. id)
end

-- The entry of the loss of a registration; empty if it is not known.
function nodes.loss_of(name, epoch)
  local lost = redis.call('HGET', keys.of('node', name), 'lost') or ''
  local lost_epoch, id = string.match(lost, '^(%d+)|(.+)$')
  return tonumber(lost_epoch) == epoch and 'log/' .. id or ''
end

-- Whether one of the last registrations of the node holds leases. The leases of a registration that
-- has ended stay until their jobs are dispatched again.
function nodes.has_leases(node)
  local list = {}
  for epoch = math.max(1, node.epoch - lost_registrations_max + 1), node.epoch do
    list[#list + 1] = keys.of('leases', node.name, string.format('%d', epoch))
  end
  return redis.call('EXISTS', unpack(list)) > 0
end

-- Delete the record and the inbox of a node that is gone. The highest epoch of the deleted records
-- is stored first. What follows cannot be taken back, so a step that fails is done again in the
-- same call.
function nodes.retire(node)
  if node.epoch > highest_retired_epoch() then
    write('HSET', keys.counters, 'retired_epoch', node.epoch_text)
  end
  local has_event = false
  local function complete()
    if not has_event then events.NodeRetired(node) end
    has_event = true
    cache.write_stable('DEL', keys.of('node', node.name), node.inbox)
    registrations.evict(node.name)
  end
  call.or_else(complete, complete)
end

-- The node gets no new jobs. `by` and `why` are those of an operator; nil if the node asks. The
-- field `drained_by` has the first operator who asked: the process of the node is then refused.
function nodes.start_drain(node, by, why)
  node.status = 'draining'
  cache.write_stable('HSET', keys.of('node', node.name), 'status', 'draining', 'drained_by',
    by or '')
  class_nodes.set_load(node.class, node.name, nil)
  cache.write_stable('HINCRBY', keys.of('class', node.class), 'draining', 1)
  class_nodes.evict(node.class)
  call.or_else(function()
    node.status = 'alive'
    cache.write_stable('HSET', keys.of('node', node.name), 'status', 'alive', 'drained_by', '')
    cache.write_stable('HINCRBY', keys.of('class', node.class), 'draining', -1)
    nodes.publish_load(node)
  end, events.NodeDraining, node, by, why)
end

-- An operator drains a node that drains already. The first operator counts, and has an event.
function nodes.join_drain(node, by, why)
  local node_key = keys.of('node', node.name)
  if (redis.call('HGET', node_key, 'drained_by') or '') ~= '' then return end
  cache.write_stable('HSET', node_key, 'drained_by', by)
  call.or_else(function() cache.write_stable('HSET', node_key, 'drained_by', '') end,
    events.NodeDraining, node, by, why)
end

-- A draining node without leases is gone.
function nodes.finish_drain(node)
  if node.status ~= 'draining' or nodes.lease_count(node) > 0 then return end
  nodes.deregister(node)
  events.NodeDrained(node)
end

-- Scope and subject of a suspension in an event, from a suspended subject of the node.
function nodes.scope_of(subject)
  if subject == nodes.whole then return 'node', '' end
  return string.find(subject, '>', 1, true) and 'language_pair' or 'feature', subject
end

-- Set the suspensions of the node. The node moves to the class with these suspensions, with
-- its load and its drain.
function nodes.set_suspended(node, suspended)
  table.sort(suspended)
  leave_class(node)
  node.suspended = table.concat(suspended, ',')
  node.class = classes.id_of(node.sources, node.targets, node.features, node.suspended)
  classes.join(node.class, node.name, node)
  cache.write_stable('HSET', keys.of('node', node.name), 'class', node.class,
    'suspended', node.suspended)
  if node.status == 'draining' then
    cache.write_stable('HINCRBY', keys.of('class', node.class), 'draining', 1)
  end
  nodes.publish_load(node)
  class_nodes.evict(node.class)
end
return nodes
