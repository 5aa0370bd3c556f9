-- nodes: registrations, slots and leases. A node's load is counted from its live leases, never
-- kept by hand (rule 16); leases belong to the registration (node, epoch) (rule 13).
-- include: cache
-- include: classes
-- include: clock
-- include: events
-- include: keys
-- include: strings
-- include: timers
-- include: write
local nodes = { lease_ms_min = 15000 }

-- What most calls need not know is read when it is asked for.
local declared = { sources = true, targets = true, features = true, marked = true }
local lazy = { __index = function(node, field)
  if not declared[field] then return nil end
  local kept = redis.call('HMGET', keys.of('node', node.name), 'sources', 'targets', 'features', 'marked')
  node.sources, node.targets, node.features, node.marked = kept[1], kept[2], kept[3], kept[4]
  return rawget(node, field)
end }

-- A registration; `epoch` is text. `leased`: how many leases it holds, once they are counted.
local function made(name, status, epoch, class, slots)
  return setmetatable({ name = name, full = keys.full(name), status = status, epoch = tonumber(epoch),
    epoch_told = epoch, class = class, slots = tonumber(slots), inbox = keys.of('inbox', name),
    leases = keys.of('leases', name, epoch), leased = nil, load = nil }, lazy)
end

-- status alive | draining | gone; nil for a node that never registered.
function nodes.get(name)
  local known = cache.of_cell().nodes
  local node = known[name]
  if node == nil then
    local kept = redis.call('HMGET', keys.of('node', name), 'status', 'epoch', 'class', 'slots')
    node = kept[1] and made(name, kept[1], kept[2], kept[3], kept[4])
    cache.put(known, name, node)
  end
  return node or nil
end

-- It serves under this epoch from now on. Behind its features more fields, with their values.
function nodes.register(name, epoch, class, slots, sources, targets, features, ...)
  cache.write_stable('HSET', keys.of('node', name), 'status', 'alive', 'epoch', epoch, 'class', class,
    'slots', slots, 'sources', sources, 'targets', targets, 'features', features, 'marked', '', ...)
  local node = made(name, 'alive', epoch, class, slots)
  node.sources, node.targets, node.features, node.marked = sources, targets, features, ''
  cache.put(cache.of_cell().nodes, name, node)
  classes.join(class, name, node)
  nodes.publish_load(node)
  return node
end

-- The node said that it can do this job; a mark may stand against it now.
function nodes.declares(node, job)
  if not strings.set_of(node.sources)[job.source] or not strings.set_of(node.targets)[job.target] then return false end
  local features = strings.set_of(node.features)
  for _, feature in ipairs(strings.split(job.features)) do
    if not features[feature] then return false end
  end
  return true
end

-- `load`: floor(1000 x live leases / slots), or nil when no slot is free.
local function know(node, leased)
  node.leased = leased
  node.load = leased < node.slots and math.floor(1000 * leased / node.slots) or nil
end

-- Counted once; from then on it is known what is taken and given back.
function nodes.lease_count(node)
  if not node.leased then know(node, redis.call('ZCARD', node.leases)) end
  return node.leased
end

function nodes.has_slot(node)
  return node.status == 'alive' and nodes.lease_count(node) < node.slots
end

-- Enter the node among those with a free slot, at its load.
function nodes.publish_load(node)
  if node.status ~= 'alive' then return end
  nodes.lease_count(node)
  classes.set_load(node.class, node.name, node.load)
  classes.evict(node.class)
end

-- One lease more or less is stored: what is known of the node and its class goes along. The caller has
-- asked for `nodes.lease_count` before it call.has_written.
local function count(node, change)
  local was = node.load
  know(node, node.leased + change)
  if node.status == 'alive' then classes.move(node.class, node.name, was, node.load) end
end

-- One timer watches over all leases of a registration: whoever takes the first slot sets it to when
-- that lease can end at the soonest, and while one is live nothing sets it later than one ends.
function nodes.acquire_slot(node, job_key)
  if nodes.lease_count(node) == 0 then
    timers.set_earlier(clock.now() + nodes.lease_ms_min, 'leases', node.name .. '|' .. node.epoch_told)
  end
  if write('ZADD', node.leases, clock.text(), job_key) == 1 then count(node, 1) end
end

-- True when this registration is still the one that serves.
function nodes.is_current(node, epoch)
  return node and node.status ~= 'gone' and node.epoch == epoch
end

-- Give a slot back, to whichever registration held it. Returns the node when it can take work now.
function nodes.release_slot(name, epoch, job_key)
  local node = nodes.get(name)
  if not nodes.is_current(node, epoch) then
    write('ZREM', keys.of('leases', name, string.format('%d', epoch)), job_key)
    return nil
  end
  nodes.lease_count(node)
  if write('ZREM', node.leases, job_key) == 1 then count(node, -1) end
  if node.status == 'draining' then
    nodes.finish_drain(node)
    return nil
  end
  return node
end

-- The inbox keeps what a live attempt may still need: entries from the oldest live one on.
function nodes.trim_inbox(node)
  local oldest = redis.call('ZRANGE', node.leases, '0', '0', 'WITHSCORES')
  write('XTRIM', node.inbox, 'MINID', oldest[2] or clock.text())
end

function nodes.leave_class(node)
  classes.leave(node.class, node.name)
  if node.status == 'draining' and redis.call('EXISTS', keys.of('class', node.class)) == 1 then
    cache.write_stable('HINCRBY', keys.of('class', node.class), 'draining', -1)
  end
end

function nodes.deregister(node)
  nodes.leave_class(node)
  node.status = 'gone'
  cache.write_stable('HSET', keys.of('node', node.name), 'status', 'gone', 'marked', '')
  timers.cancel_both('node', 'drain', node.name)
end

function nodes.start_drain(node)
  node.status = 'draining'
  cache.write_stable('HSET', keys.of('node', node.name), 'status', 'draining')
  classes.set_load(node.class, node.name, nil)
  cache.write_stable('HINCRBY', keys.of('class', node.class), 'draining', 1)
  classes.evict(node.class)
  events.NodeDraining(node)
end

function nodes.finish_drain(node)
  if node.status ~= 'draining' or nodes.lease_count(node) > 0 then return end
  nodes.deregister(node)
  events.NodeDrained(node)
end

-- Marks changed: the node moves to the class of its new signature, load and drain with it.
function nodes.change_class(node, marked)
  table.sort(marked)
  nodes.leave_class(node)
  node.marked = table.concat(marked, ',')
  node.class = classes.id_of(node.sources, node.targets, node.features, node.marked)
  classes.join(node.class, node.name, node)
  cache.write_stable('HSET', keys.of('node', node.name), 'class', node.class, 'marked', node.marked)
  if node.status == 'draining' then
    cache.write_stable('HINCRBY', keys.of('class', node.class), 'draining', 1)
  end
  nodes.publish_load(node)
  classes.evict(node.class)
end
return nodes
