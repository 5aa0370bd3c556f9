-- classes: a capability class is the set of nodes with equal (sources, targets, features, suspended
-- features). Dispatch compares classes instead of nodes: every node of a class can take the same
-- jobs, and the least loaded node is first.
-- include: cache
-- include: call
-- include: class_order
-- include: events
-- include: keys
-- include: numbers
-- include: ordered_set
-- include: reply
-- include: strings
-- include: write
-- `whole_node` among the suspended features suspends the nodes of the class for every job.
local classes = { pending_class = nil, pending_node = nil, pending_load = nil, pending_listed = nil,
  whole_node = '*' }
local first_free_max, first_free_last = 8, '7'
local named_max = 8
-- A list of one call of `classes.evidence`, which is used again.
local texts = {}
local as_text, concat = numbers.text, table.concat

-- The load of one node that is not written to the sorted set of its class yet. `pending_listed`:
-- whether the set has the node, by the cache; nil if the cache is not updated with the load.
local function clear_load()
  classes.pending_class, classes.pending_node, classes.pending_load = nil, nil, nil
  classes.pending_listed = nil
end

call.on_reset(clear_load)

function classes.id_of(sources, targets, features, suspended)
  local signature = table.concat({ sources, targets, features, suspended }, '|')
  return string.sub(redis.sha1hex(signature), 1, 12)
end

-- A class: `total` members, of which `draining` take no new work.
local definitions = cache.register('classes', 'stable', function(id)
  local stored = redis.call('HMGET', keys.of('class', id), 'features', 'suspended', 'draining')
  return {
    id = id, key_of_free = keys.of('free', id), features = strings.set_of(stored[1]),
    suspended = strings.set_of(stored[2]), draining = tonumber(stored[3]) or 0,
    total = redis.call('SCARD', keys.of('members', id)),
  }
end)

-- The nodes of a class with a free slot: `nodes` lists the first ones in order, { name, load }
-- each; `count` is the number of all; `full` and `draining` are those of the other nodes;
-- `evidence` is the JSON of the class for events, nil after a change; `entries` are those of the
-- class in orders.
local free_nodes = cache.register('free_nodes', 'live', function()
  return { nodes = nil, count = nil, full = nil, draining = nil, evidence = nil, entries = {} }
end)

-- The ids of the classes of a language pair.
local ids_of_pair = cache.register('pairs', 'stable', function(pair)
  local source, target = string.match(pair, '^(.*):(.*)$')
  local ids = redis.call('SMEMBERS', keys.of('pair', source, target))
  table.sort(ids)
  return ids
end)

-- The result of `matching` by requirement: `has` has the classes that can take a job now, by id,
-- `suspended` those that could without their suspensions; `is_declared`: whether there is any.
-- Requirements with the same classes share it, and the order of its classes, which has the same
-- key.
local matches = cache.register('matches', 'stable', function() return nil end)
local matches_by_key = cache.register('matches_by_key', 'stable', function() return nil end)
local orders = cache.register('orders', 'live', function() return nil end)

-- The requirements with waiting jobs that a class serves, in the order of their next jobs: `first`
-- lists the first two, nil after a change; `count` is the number of all.
local function read_first(id)
  return redis.call('ZRANGE', keys.of('requirements', id), '0', '1')
end

local waiting = cache.register('waiting_heads', 'live', function(id)
  local first = read_first(id)
  return { first = first,
    count = first[2] and redis.call('ZCARD', keys.of('requirements', id)) or #first }
end)

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
  local id, node, load = classes.pending_class, classes.pending_node, classes.pending_load
  if not id then return end
  local class = definitions.peek(id)
  local free = class and class.key_of_free or keys.of('free', id)
  local changed
  if load then
    changed = write('ZADD', free, as_text[load], node)
  else
    changed = write('ZREM', free, node)
  end
  classes.pending_class = nil
  local is_listed = classes.pending_listed
  if is_listed == nil then return end
  local was_listed = (changed == 1) == (load == nil)
  if was_listed ~= is_listed then forget_free(id) end
end

call.on_commit(function()
  if not classes.pending_node then return end
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

function classes.evidence_of(id)
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

-- The order of the classes of a result of `matching`, equal to the stored state.
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
function classes.first_heads(match)
  return ordered_set.first_two(order_of(match).heads)
end

-- The least loaded node of a class after its head: { name, load }, or nil.
function classes.second_free(id)
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
function classes.evidence(match, id)
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
function classes.set_load(id, node, load, is_listed)
  if classes.pending_node ~= node or classes.pending_class ~= id then
    write_load()
    classes.pending_listed = is_listed
  end
  classes.pending_class, classes.pending_node, classes.pending_load = id, node, load
end

-- Change the load of a node from `old` to `load`; nil stands for no free slot. The cached list is
-- updated.
function classes.move(id, node, old, load)
  classes.set_load(id, node, load, old ~= nil)
  local free = free_nodes.peek(id)
  local list = free and free.nodes
  if not list then return end
  local first, last = list[1], list[#list]
  local is_complete, at, item = #list == free.count, 1, nil
  if old and first and old <= last.load then
    while list[at] and list[at].name ~= node do at = at + 1 end
    item = table.remove(list, at)
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
function classes.evict(id)
  definitions.evict(id)
  forget_free(id)
end

-- A class is new: requirements match other classes.
local function evict_matches()
  ids_of_pair.evict_all()
  matches.evict_all()
  matches_by_key.evict_all()
  orders.evict_all()
end

-- A class is gone.
local function remove_from_matches(id)
  ids_of_pair.evict_all()
  for _, match in pairs(matches_by_key.values()) do
    match.has[id], match.suspended[id] = nil, nil
    match.is_declared = next(match.has) ~= nil or next(match.suspended) ~= nil
  end
  local free = free_nodes.peek(id)
  for _, entry in ipairs(free and free.entries or {}) do
    if entry.order then class_order.remove(entry) end
  end
  free_nodes.evict(id)
end

local function contains_all(set, features)
  for _, feature in ipairs(features) do
    if not set[feature] then return false end
  end
  return true
end

-- Whether the nodes of the class are suspended for a requirement with these features.
local function is_suspended(class, features)
  local set = class.suspended
  if set[classes.whole_node] then return true end
  for _, feature in ipairs(features) do
    if set[feature] then return true end
  end
  return false
end

-- Whether the nodes of the class can take a job with these features now.
local function serves(class, features)
  return contains_all(class.features, features) and not is_suspended(class, features)
end

local function find_matching(requirement)
  local source, target, features = string.match(requirement, '^(.-):(.-):(.*)$')
  features = strings.split(features)
  local usable, suspended = {}, {}
  for _, id in ipairs(ids_of_pair.read_through(source .. ':' .. target)) do
    local class = definitions.read_through(id)
    if contains_all(class.features, features) then
      local ids = is_suspended(class, features) and suspended or usable
      ids[#ids + 1] = id
    end
  end
  local usable_text, suspended_text = table.concat(usable, ','), table.concat(suspended, ',')
  local key = redis.sha1hex(usable_text .. '|' .. suspended_text)
  local match = matches_by_key.peek(key)
  if not match then
    match = { key = key, has = strings.set_of(usable_text),
      suspended = strings.set_of(suspended_text), is_declared = usable[1] ~= nil
        or suspended[1] ~= nil }
    matches_by_key.put(key, match)
  end
  return match
end

-- The classes that can take a job with this requirement now, and whether any node is declared for
-- it (rule 15, two reasons to wait).
function classes.matching(requirement)
  local match = matches.peek(requirement)
  if not match then
    match = find_matching(requirement)
    matches.put(requirement, match)
  end
  return match, match.is_declared
end

-- Whether the nodes other than this one can serve every requirement that this node can serve now. A
-- node that drains takes no new job. The requirement with all usable features is the hardest one of
-- each language pair. Bound: the 1,024 language pairs of a node, the classes of each.
function classes.others_can_serve(node)
  local suspended, usable, by_class = strings.set_of(node.suspended), {}, {}
  for _, feature in ipairs(strings.split(node.features)) do
    if not suspended[feature] then usable[#usable + 1] = feature end
  end
  local function can_serve(id)
    if by_class[id] == nil then
      local class = definitions.read_through(id)
      local is_this = id == node.class and node.status == 'alive'
      by_class[id] = class.total - class.draining > (is_this and 1 or 0)
        and contains_all(class.features, usable) and not is_suspended(class, usable)
    end
    return by_class[id]
  end
  local targets = strings.split(node.targets)
  for _, source in ipairs(strings.split(node.sources)) do
    for _, target in ipairs(targets) do
      local has_other = false
      for _, id in ipairs(ids_of_pair.read_through(source .. ':' .. target)) do
        has_other = can_serve(id)
        if has_other then break end
      end
      if not has_other then return false end
    end
  end
  return true
end

-- A node joins. `declared` has its sources, targets, features and suspended features as joined
-- text. A new class is added to each of its language pairs (at most 1,024) and gets the waiting
-- requirements that it serves.
function classes.join(id, node, declared)
  if cache.write_stable('SADD', keys.of('members', id), node) == 1
    and write('SADD', keys.classes, id) == 1 then
    cache.write_stable('HSET', keys.of('class', id), 'sources', declared.sources,
      'targets', declared.targets, 'features', declared.features,
      'suspended', declared.suspended, 'draining', '0')
    local sources, targets = strings.split(declared.sources), strings.split(declared.targets)
    for _, source in ipairs(sources) do
      for _, target in ipairs(targets) do
        cache.write_stable('SADD', keys.of('pair', source, target), id)
      end
    end
    evict_matches()
    classes.watch(id, strings.set_of(declared.sources), strings.set_of(declared.targets))
  end
  classes.evict(id)
end

-- The first two of the waiting requirements that the class serves, in the order of their next jobs
-- (module `queue` has the form), and the number of all.
function classes.waiting(id)
  local heads = waiting.read_through(id)
  heads.first = heads.first or read_first(id)
  return heads.first, heads.count
end

-- The next job of a requirement has changed from `old` to `head`; nil stands for none.
function classes.set_head(id, old, head)
  local items, heads, change = keys.of('requirements', id), waiting.peek(id), 0
  if old then change = -write('ZREM', items, old) end
  if head then change = change + write('ZADD', items, '0', head) end
  if not heads then return end
  heads.count, heads.first = heads.count + change, nil
  if heads.count == 0 then heads.first = {} end
  if heads.count == 1 and head then heads.first = { head } end
end

-- A class gets the next job of every waiting requirement that it serves. Bound: the waiting
-- requirements of the cell.
function classes.watch(id, sources, targets)
  local class, items = definitions.read_through(id), keys.of('requirements', id)
  waiting.evict(id)
  for requirement, place in pairs(reply.by_name(redis.call('HGETALL', keys.requirements))) do
    local source, target, features = string.match(requirement, '^(.-):(.-):(.*)$')
    if sources[source] and targets[target] and serves(class, strings.split(features)) then
      write('ZADD', items, '0', place .. ':' .. requirement)
    end
  end
end

-- For repairs: build the waiting requirements of a class again from its stored definition. Bound:
-- the waiting requirements of the cell.
function classes.rebuild_waiting(id)
  classes.evict(id)
  evict_matches()
  waiting.evict(id)
  write('DEL', keys.of('requirements', id))
  local stored = redis.call('HMGET', keys.of('class', id), 'sources', 'targets')
  if stored[1] then
    classes.watch(id, strings.set_of(stored[1]), strings.set_of(stored[2]))
  end
end

-- For `verify`, without the cache: the ids of the classes that serve a requirement now.
function classes.stored_serving(source, target, features)
  local ids = {}
  for _, id in ipairs(redis.call('SMEMBERS', keys.of('pair', source, target))) do
    local stored = redis.call('HMGET', keys.of('class', id), 'features', 'suspended')
    local class = { features = strings.set_of(stored[1] or ''),
      suspended = strings.set_of(stored[2] or '') }
    if serves(class, strings.split(features)) then ids[#ids + 1] = id end
  end
  return ids
end

-- A node leaves. A class without members is removed.
function classes.leave(id, node)
  classes.set_load(id, node, nil)
  cache.write_stable('SREM', keys.of('members', id), node)
  if redis.call('SCARD', keys.of('members', id)) == 0 then
    local stored = redis.call('HMGET', keys.of('class', id), 'sources', 'targets')
    local targets = strings.split(stored[2])
    for _, source in ipairs(strings.split(stored[1])) do
      for _, target in ipairs(targets) do
        cache.write_stable('SREM', keys.of('pair', source, target), id)
      end
    end
    write('SREM', keys.classes, id)
    cache.write_stable('DEL', keys.of('class', id), keys.of('requirements', id))
    waiting.evict(id)
    remove_from_matches(id)
  end
  classes.evict(id)
end
return classes
