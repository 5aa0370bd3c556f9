-- class_nodes: the nodes of each capability class with a free slot, the least loaded first; the
-- order of classes by these nodes, for a choice and its evidence.
-- include: cache
-- include: call
-- include: class_order
-- include: events
-- include: keys
-- include: numbers
-- include: ordered_set
-- include: strings
-- include: write
local class_nodes = { pending_class = nil, pending_node = nil, pending_load = nil,
  pending_listed = nil }
local first_free_max, first_free_last = 8, '7'
local named_max = 8
-- A list of one call of `class_nodes.evidence`, which is used again.
local texts = {}
local as_text, concat = numbers.text, table.concat

-- The load of one node that is not written to the sorted set of its class yet. `pending_listed`:
-- whether the set has the node, by the cache; nil if the cache is not updated with the load.
local function clear_load()
  class_nodes.pending_class, class_nodes.pending_node, class_nodes.pending_load = nil, nil, nil
  class_nodes.pending_listed = nil
end

call.on_reset(clear_load)

-- A class: `total` members, of which `draining` take no new work.
local definitions = cache.register('classes', 'stable', function(id)
  local stored = redis.call('HMGET', keys.of('class', id), 'features', 'suspended', 'draining')
  return {
    id = id, key_of_free = keys.of('free', id), features = strings.set_of(stored[1]),
    suspended = strings.set_of(stored[2]), draining = tonumber(stored[3]) or 0,
    total = redis.call('SCARD', keys.of('members', id)),
  }
end)

-- The definition of a class: { id, features, suspended, total, draining }.
class_nodes.definition = definitions.read_through

-- The nodes of a class with a free slot: `nodes` lists the first ones in order, { name, load }
-- each; `count` is the number of all; `full` and `draining` are those of the other nodes;
-- `evidence` is the JSON of the class for events, nil after a change; `entries` are those of the
-- class in orders.
local free_nodes = cache.register('free_nodes', 'live', function()
  return { nodes = nil, count = nil, full = nil, draining = nil, evidence = nil, entries = {} }
end)

-- The orders of classes by the keys of results of `classes.matching`.
local orders = cache.register('orders', 'live', function() return nil end)

-- The head of a class has changed, or the numbers of its nodes.
local function set_changed(free)
  free.evidence = nil
  local entries = free.entries
  for i = 1, #entries do class_order.mark(entries[i]) end
end

-- The nodes with a free slot are read again.
local function forget_free(id)
  local free = free_nodes.peek(id)
  if not free then return end
  free.nodes, free.count = nil, nil
  set_changed(free)
end

-- Write the pending load. If the stored set differs from the cached one, because an earlier call
-- failed before it wrote the set, the set is read again.
local function write_load()
  local id, node = class_nodes.pending_class, class_nodes.pending_node
  local load = class_nodes.pending_load
  if not id then return end
  local class = definitions.peek(id)
  local free = class and class.key_of_free or keys.of('free', id)
  local changed
  if load then
    changed = write('ZADD', free, as_text[load], node)
  else
    changed = write('ZREM', free, node)
  end
  class_nodes.pending_class = nil
  local is_listed = class_nodes.pending_listed
  if is_listed == nil then return end
  local was_listed = (changed == 1) == (load == nil)
  if was_listed ~= is_listed then forget_free(id) end
end

call.on_commit(function()
  if not class_nodes.pending_node then return end
  write_load()
  clear_load()
end)

-- The least loaded nodes with a free slot: at least the first two, if the class has two. The second
-- result is the number of nodes of the class with a free slot.
local function first_free(class, free)
  local list = free.nodes
  if list and (list[2] or #list == free.count) then return list, free.count end
  write_load()
  list = {}
  local stored = redis.call('ZRANGE', class.key_of_free, '0', first_free_last, 'WITHSCORES')
  for i = 1, #stored, 2 do
    list[#list + 1] = { name = stored[i], load = numbers.value[stored[i + 1]] }
  end
  free.nodes, free.count = list, free.count
    or #list < first_free_max and #list or redis.call('ZCARD', class.key_of_free)
  return list, free.count
end

-- The nodes of a class with a free slot, with the JSON of the class (rule 17, evidence).
local function read_evidence(id)
  local free = free_nodes.read_through(id)
  if free.evidence then return free end
  local class = definitions.read_through(id)
  local list, count = first_free(class, free)
  local first = list[1]
  free.full, free.draining = class.total - count - class.draining, class.draining
  free.evidence = events.class_seen(id, first and first.name, first and first.load, count,
    free.full, free.draining)
  return free
end

function class_nodes.evidence_of(id)
  return read_evidence(id).evidence
end

local function new_order(match)
  local order = class_order.new()
  for id in pairs(match.has) do
    local entries = free_nodes.read_through(id).entries
    entries[#entries + 1] = class_order.add(order, id)
  end
  orders.put(match.key, order)
  orders.grow(order.count)
  return order
end

-- The order of the classes of a result of `classes.matching`, equal to the stored state.
local function order_of(match)
  local order = orders.peek(match.key) or new_order(match)
  local marked = order.marked
  local entry = marked[#marked]
  while entry do
    marked[#marked], entry.is_marked = nil, false
    if entry.order then
      local free = read_evidence(entry.id)
      class_order.update(entry, free.nodes[1], free)
    end
    entry = marked[#marked]
  end
  return order
end

-- The heads of the first two classes in order: { id, name, load } each.
function class_nodes.first_heads(match)
  return ordered_set.first_two(order_of(match).heads)
end

-- Whether this node and another one can take a job of the match, with a free slot or full.
function class_nodes.has_other(match, node)
  if node.status ~= 'alive' or not match.has[node.class] then return false end
  local order = order_of(match)
  return order.free + order.full > 1
end

-- The least loaded node of a class after its head: { name, load }, or nil.
function class_nodes.second_free(id)
  return first_free(definitions.read_through(id), free_nodes.read_through(id))[2]
end

-- The numbers of the classes that are not named and of their nodes, as JSON. `count` classes are
-- named: the chosen one and the first others in the list.
local function others_of(order, chosen, first, count)
  local others = order.count - count
  local free, full, draining =
    order.free - chosen.free, order.full - chosen.full, order.draining - chosen.draining
  local at = 1
  while count > 1 do
    local entry = first[at]
    if entry ~= chosen then
      count = count - 1
      free, full, draining = free - entry.free, full - entry.full, draining - entry.draining
    end
    at = at + 1
  end
  return events.other_classes(others, free, full, draining)
end

-- The evidence for a choice (rule 17, evidence), as JSON: the class of the chosen node and at most
-- seven further classes in the order of their heads, as items of an array; the numbers of the other
-- classes and of their nodes, nil if there are none. The entry of the class has the texts until the
-- order changes.
function class_nodes.evidence(match, id)
  local order = order_of(match)
  local chosen = order.entries[id]
  if chosen.version == order.version then return chosen.named, chosen.others end
  local first, count, at = ordered_set.first(order.heads, named_max), 1, 1
  local entry = first[1]
  texts[1] = chosen.evidence
  while entry and count < named_max do
    if entry ~= chosen then
      count = count + 1
      texts[count] = entry.evidence
    end
    at = at + 1
    entry = first[at]
  end
  chosen.named = concat(texts, ',', 1, count)
  chosen.others = order.count > count and others_of(order, chosen, first, count) or nil
  chosen.version = order.version
  return chosen.named, chosen.others
end

-- Set the load of a node, or nil if it has no free slot. The write is deferred until the load of
-- another node is set, the first nodes are read, or the call commits: a node that frees eight slots
-- in a call is written once. `is_listed`: see `pending_listed`.
function class_nodes.set_load(id, node, load, is_listed)
  if class_nodes.pending_node ~= node or class_nodes.pending_class ~= id then
    write_load()
    class_nodes.pending_listed = is_listed
  end
  class_nodes.pending_class, class_nodes.pending_node, class_nodes.pending_load = id, node, load
end

-- The load of the item at `at` is lower than before: move the item to its place in the order.
local function move_forward(list, at)
  local item, before = list[at], list[at - 1]
  local name, load = item.name, item.load
  while before and ordered_set.precedes(name, load, before) do
    list[at] = before
    at = at - 1
    before = list[at - 1]
  end
  list[at] = item
end

-- Change the load of a node from `old` to `load`; nil means no free slot. The cached list is
-- updated.
function class_nodes.move(id, node, old, load)
  class_nodes.set_load(id, node, load, old ~= nil)
  local free = free_nodes.peek(id)
  local list = free and free.nodes
  if not list then return end
  local first, last = list[1], list[#list]
  local is_complete, at, item = #list == free.count, 1, nil
  if old and first and old <= last.load then
    item = list[at]
    while item and item.name ~= node do
      at = at + 1
      item = list[at]
    end
    if item and load and load < old then
      item.load = load
      move_forward(list, at)
      if list[1] ~= first or first == item then set_changed(free) end
      return
    end
    table.remove(list, at)
    last = list[#list]
  end
  if not old or not load then
    free.count = free.count + (load and 1 or 0) - (old and 1 or 0)
  end
  if load then
    at = #list + 1
    if last and load <= last.load then
      while at > 1 and ordered_set.precedes(node, load, list[at - 1]) do at = at - 1 end
    end
    -- Append to the list only if it is complete. Otherwise nodes that are not in the list may come
    -- before this node.
    if list[at] or is_complete then
      item = item or { name = node, load = nil }
      item.load = load
      table.insert(list, at, item)
      list[first_free_max + 1] = nil
    end
  end
  if not old or not load or list[1] ~= first or first and first.name == node then
    set_changed(free)
  end
end

-- The members of a class have changed, or how many of them drain.
function class_nodes.evict(id)
  definitions.evict(id)
  forget_free(id)
end

-- The order of the classes of a requirement is built again.
class_nodes.evict_orders = orders.evict_all

-- A class is gone.
function class_nodes.remove(id)
  local free = free_nodes.peek(id)
  for _, entry in ipairs(free and free.entries or {}) do
    if entry.order then class_order.remove(entry) end
  end
  free_nodes.evict(id)
end
return class_nodes
