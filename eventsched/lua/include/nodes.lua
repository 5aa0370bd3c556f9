-- nodes: registrations, slots and leases. A node's load is counted from its live leases, never
-- kept by hand (rule 16); leases belong to the registration (node, epoch) (rule 13).
-- include: keys
-- include: write
-- include: timers
-- include: text
-- include: classes
local nodes = { known = {} }

-- status alive | draining | gone; nil for a node that never registered.
function nodes.get(name)
  local node = nodes.known[name]
  if node == nil then
    local kept = redis.call('HMGET', keys.of('node', name), 'status', 'epoch', 'class', 'slots',
      'asr', 'targets', 'services', 'marked')
    node = kept[1] and {
      name = name, status = kept[1], epoch = tonumber(kept[2]), class = kept[3],
      slots = tonumber(kept[4]), asr = kept[5], targets = kept[6], services = kept[7], marked = kept[8],
    } or false
    nodes.known[name] = node
  end
  return node or nil
end

-- The node said that it can do this job; a mark may stand against it now.
function nodes.declares(node, job)
  if not text.set(node.asr)[job.source] or not text.set(node.targets)[job.target] then return false end
  local services = text.set(node.services)
  for _, service in ipairs(text.list(job.services)) do
    if not services[service] then return false end
  end
  return true
end

function nodes.leases(node)
  return keys.of('leases', node.name, string.format('%d', node.epoch))
end

function nodes.live(node)
  return redis.call('ZCARD', nodes.leases(node))
end

-- Enter the node among those with a free slot, at its load, or take it out when it has none.
function nodes.place(node)
  if node.status ~= 'alive' then return end
  local live = nodes.live(node)
  if live < node.slots then
    write('ZADD', keys.of('free', node.class), math.floor(1000 * live / node.slots), node.name)
  else
    write('ZREM', keys.of('free', node.class), node.name)
  end
  local class = classes.get(node.class)
  class.heads = nil
end

function nodes.take(node, job_key, now)
  write('ZADD', nodes.leases(node), string.format('%d', now), job_key)
  nodes.place(node)
end

-- True when this registration is still the one that serves.
function nodes.is_current(node, epoch)
  return node and node.status ~= 'gone' and node.epoch == epoch
end

-- Give a slot back, to whichever registration held it. Returns the node when it can take work now.
function nodes.give_back(name, epoch, job_key)
  write('ZREM', keys.of('leases', name, string.format('%d', epoch)), job_key)
  local node = nodes.get(name)
  if not nodes.is_current(node, epoch) then return nil end
  if node.status == 'draining' then
    nodes.finish_drain(node)
    return nil
  end
  nodes.place(node)
  return node
end

-- The inbox keeps what a live attempt may still need: entries from the oldest live one on.
function nodes.trim_inbox(node, now)
  local oldest = redis.call('ZRANGE', nodes.leases(node), 0, 0, 'WITHSCORES')
  write('XTRIM', keys.of('inbox', node.name), 'MINID', oldest[2] or string.format('%d', now))
end

function nodes.leave_class(node)
  classes.leave(node.class, node.name)
  if node.status == 'draining' and redis.call('EXISTS', keys.of('class', node.class)) == 1 then
    write('HINCRBY', keys.of('class', node.class), 'draining', -1)
  end
end

function nodes.gone(node)
  nodes.leave_class(node)
  node.status = 'gone'
  write('HSET', keys.of('node', node.name), 'status', 'gone', 'marked', '')
  timers.drop('node|' .. node.name, 'drain|' .. node.name)
end

function nodes.drain(node)
  node.status = 'draining'
  write('HSET', keys.of('node', node.name), 'status', 'draining')
  write('ZREM', keys.of('free', node.class), node.name)
  write('HINCRBY', keys.of('class', node.class), 'draining', 1)
  classes.changed(node.class)
  emit({ t = 'NodeDraining', n = keys.full(node.name), d = { epoch = node.epoch } })
end

function nodes.finish_drain(node)
  if node.status ~= 'draining' or nodes.live(node) > 0 then return end
  nodes.gone(node)
  emit({ t = 'NodeDrained', n = keys.full(node.name), d = { epoch = node.epoch } })
end

-- Marks changed: the node moves to the class of its new signature, load and drain with it.
function nodes.move(node, marked)
  table.sort(marked)
  nodes.leave_class(node)
  node.marked = table.concat(marked, ',')
  node.class = classes.id_of(node.asr, node.targets, node.services, node.marked)
  classes.join(node.class, node.name, node)
  write('HSET', keys.of('node', node.name), 'class', node.class, 'marked', node.marked)
  if node.status == 'draining' then
    write('HINCRBY', keys.of('class', node.class), 'draining', 1)
  end
  classes.changed(node.class)
  nodes.place(node)
end
