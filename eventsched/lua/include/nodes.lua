-- nodes: registrations, slots and leases. A node's load is counted from its live leases, never
-- kept by hand (rule 16); leases belong to the registration (node, epoch) (rule 13).
-- include: classes
-- include: clock
-- include: events
-- include: keys
-- include: memory
-- include: text
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
  local known = memory.of_cell().nodes
  local node = known[name]
  if node == nil then
    local kept = redis.call('HMGET', keys.of('node', name), 'status', 'epoch', 'class', 'slots')
    node = kept[1] and made(name, kept[1], kept[2], kept[3], kept[4])
    memory.keep(known, name, node)
  end
  return node or nil
end

-- It serves under this epoch from now on. Behind its features more fields, with their values.
function nodes.enter(name, epoch, class, slots, sources, targets, features, ...)
  memory.write('HSET', keys.of('node', name), 'status', 'alive', 'epoch', epoch, 'class', class,
    'slots', slots, 'sources', sources, 'targets', targets, 'features', features, 'marked', '', ...)
  local node = made(name, 'alive', epoch, class, slots)
  node.sources, node.targets, node.features, node.marked = sources, targets, features, ''
  memory.keep(memory.of_cell().nodes, name, node)
  classes.join(class, name, node)
  nodes.place(node)
  return node
end

-- The node said that it can do this job; a mark may stand against it now.
function nodes.declares(node, job)
  if not text.set(node.sources)[job.source] or not text.set(node.targets)[job.target] then return false end
  local features = text.set(node.features)
  for _, feature in ipairs(text.list(job.features)) do
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
function nodes.live(node)
  if not node.leased then know(node, redis.call('ZCARD', node.leases)) end
  return node.leased
end

function nodes.has_slot(node)
  return node.status == 'alive' and nodes.live(node) < node.slots
end

-- Enter the node among those with a free slot, at its load.
function nodes.place(node)
  if node.status ~= 'alive' then return end
  nodes.live(node)
  classes.seat(node.class, node.name, node.load)
  classes.changed(node.class)
end

-- One lease more or less is stored: what is known of the node and its class goes along. The caller has
-- asked for `nodes.live` before it call.has_written.
local function count(node, change)
  local was = node.load
  know(node, node.leased + change)
  if node.status == 'alive' then classes.reseat(node.class, node.name, was, node.load) end
end

-- One timer watches over all leases of a registration: whoever takes the first slot sets it to when
-- that lease can end at the soonest, and while one is live nothing sets it later than one ends.
function nodes.take(node, job_key)
  if nodes.live(node) == 0 then
    timers.sooner(clock.now() + nodes.lease_ms_min, 'leases', node.name .. '|' .. node.epoch_told)
  end
  if write('ZADD', node.leases, clock.text(), job_key) == 1 then count(node, 1) end
end

-- True when this registration is still the one that serves.
function nodes.is_current(node, epoch)
  return node and node.status ~= 'gone' and node.epoch == epoch
end

-- Give a slot back, to whichever registration held it. Returns the node when it can take work now.
function nodes.give_back(name, epoch, job_key)
  local node = nodes.get(name)
  if not nodes.is_current(node, epoch) then
    write('ZREM', keys.of('leases', name, string.format('%d', epoch)), job_key)
    return nil
  end
  nodes.live(node)
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
    memory.write('HINCRBY', keys.of('class', node.class), 'draining', -1)
  end
end

function nodes.gone(node)
  nodes.leave_class(node)
  node.status = 'gone'
  memory.write('HSET', keys.of('node', node.name), 'status', 'gone', 'marked', '')
  timers.drop_both('node', 'drain', node.name)
end

function nodes.drain(node)
  node.status = 'draining'
  memory.write('HSET', keys.of('node', node.name), 'status', 'draining')
  classes.seat(node.class, node.name, nil)
  memory.write('HINCRBY', keys.of('class', node.class), 'draining', 1)
  classes.changed(node.class)
  events.NodeDraining(node)
end

function nodes.finish_drain(node)
  if node.status ~= 'draining' or nodes.live(node) > 0 then return end
  nodes.gone(node)
  events.NodeDrained(node)
end

-- Marks changed: the node moves to the class of its new signature, load and drain with it.
function nodes.move(node, marked)
  table.sort(marked)
  nodes.leave_class(node)
  node.marked = table.concat(marked, ',')
  node.class = classes.id_of(node.sources, node.targets, node.features, node.marked)
  classes.join(node.class, node.name, node)
  memory.write('HSET', keys.of('node', node.name), 'class', node.class, 'marked', node.marked)
  if node.status == 'draining' then
    memory.write('HINCRBY', keys.of('class', node.class), 'draining', 1)
  end
  nodes.place(node)
  classes.changed(node.class)
end
return nodes
