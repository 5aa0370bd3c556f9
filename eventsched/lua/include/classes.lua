-- classes: a capability class is the set of nodes with equal (sources, targets, features, suspended
-- subjects). Dispatch compares classes instead of nodes: every node of a class can take the same
-- jobs, and the least loaded node is first.
-- include: cache
-- include: class_nodes
-- include: keys
-- include: reply
-- include: strings
-- include: write
-- A suspended subject is a feature, a language pair as `pair_subject` names it, or `whole_node`,
-- which suspends the nodes of the class for every job.
local classes = { whole_node = '*' }
-- Source, target and features of a requirement, or of a queue of it that avoids a node.
local queue_pattern, scanned_max, scanned_text = '^(.-):(.-):([^|]*)', 128, '128'

function classes.id_of(sources, targets, features, suspended)
  local signature = table.concat({ sources, targets, features, suspended }, '|')
  return string.sub(redis.sha1hex(signature), 1, 12)
end

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

-- A class is new: requirements match other classes.
local function evict_matches()
  ids_of_pair.evict_all()
  matches.evict_all()
  matches_by_key.evict_all()
  class_nodes.evict_orders()
end

-- A class is gone.
local function remove_from_matches(id)
  ids_of_pair.evict_all()
  for _, match in pairs(matches_by_key.values()) do
    match.has[id], match.suspended[id] = nil, nil
    match.is_declared = next(match.has) ~= nil or next(match.suspended) ~= nil
  end
  class_nodes.remove(id)
end

local function contains_all(set, features)
  for _, feature in ipairs(features) do
    if not set[feature] then return false end
  end
  return true
end

-- The subject of a suspension for a language pair. No feature has this form.
function classes.pair_subject(source, target)
  return source .. '>' .. target
end

-- Whether the nodes of the class are suspended for this pair or for one of these features.
local function is_suspended_for(class, pair, features)
  local set = class.suspended
  if pair and set[pair] then return true end
  for _, feature in ipairs(features) do
    if set[feature] then return true end
  end
  return false
end

-- Whether the nodes of the class are suspended for a requirement of this pair with these features.
local function is_suspended(class, pair, features)
  return class.suspended[classes.whole_node] or is_suspended_for(class, pair, features)
end

-- Whether the nodes of the class can take a job of this pair with these features now.
local function serves(class, pair, features)
  return contains_all(class.features, features) and not is_suspended(class, pair, features)
end

local function find_matching(requirement)
  local source, target, features = string.match(requirement, queue_pattern)
  features = strings.split(features)
  local pair, usable, suspended = classes.pair_subject(source, target), {}, {}
  for _, id in ipairs(ids_of_pair.read_through(source .. ':' .. target)) do
    local class = class_nodes.definition(id)
    if contains_all(class.features, features) then
      local ids = is_suspended(class, pair, features) and suspended or usable
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
  return match
end

-- Whether one more node may be suspended for every job, beside `out` suspended ones and `able`
-- others.
local function is_below(out, able, share)
  return out < math.max(1, math.floor((able + out) / share))
end

-- Whether the node may be suspended for every job. Afterwards another node can serve every
-- requirement that this node can serve now. With `share`, also at most one node in `share` is then
-- suspended for every job, or one node, both of those of a language pair and of those that have the
-- features of this node as well. A node that drains takes no new job and does not count. The
-- requirement with all usable features is the hardest one of each language pair; a pair for which
-- the node is suspended needs no other node. Bound: the 1,024 language pairs of a node, the classes
-- of each.
function classes.may_suspend(node, share)
  local suspended, usable, by_class = strings.set_of(node.suspended), {}, {}
  for _, feature in ipairs(strings.split(node.features)) do
    if not suspended[feature] then usable[#usable + 1] = feature end
  end
  local own = node.status == 'alive' and not suspended[classes.whole_node] and 1 or 0
  local function has_usable(class)
    if by_class[class.id] == nil then
      by_class[class.id] = contains_all(class.features, usable)
        and not is_suspended_for(class, nil, usable)
    end
    return by_class[class.id]
  end
  local function may_suspend_for(pair, subject)
    local able, out, able_of_pair, out_of_pair = 0, 0, 0, 0
    for _, id in ipairs(ids_of_pair.read_through(pair)) do
      local class = class_nodes.definition(id)
      if not class.suspended[subject] then
        local count, with_usable = class.total - class.draining, has_usable(class)
        if class.suspended[classes.whole_node] then
          out_of_pair = out_of_pair + count
          if with_usable then out = out + count end
        else
          able_of_pair = able_of_pair + count
          if with_usable then able = able + count end
        end
      end
      if not share and able > own then return true end
    end
    if able == own then return false end
    return not share
      or is_below(out, able, share) and is_below(out_of_pair, able_of_pair, share)
  end
  local targets = strings.split(node.targets)
  for _, source in ipairs(strings.split(node.sources)) do
    for _, target in ipairs(targets) do
      local subject = classes.pair_subject(source, target)
      if not suspended[subject] and not may_suspend_for(source .. ':' .. target, subject) then
        return false
      end
    end
  end
  return true
end

-- A node joins. `declared` has its sources, targets, features and suspended subjects as joined
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
  class_nodes.evict(id)
end

-- The first two of the waiting requirements that the class serves, in the order of their next jobs
-- (module `queue` has the form), and the number of all.
function classes.waiting(id)
  local heads = waiting.read_through(id)
  heads.first = heads.first or read_first(id)
  return heads.first, heads.count
end

-- The first two of these requirements that do not end with `suffix`, of the 128 after the item
-- `from`, or of the first 128 if it is nil. If there is none but the class has further ones, the
-- second result is the item after which the next call goes on.
function classes.waiting_without(id, suffix, from)
  local items, lowest = {}, from and '(' .. from or '-'
  local scanned = redis.call('ZRANGE', keys.of('requirements', id), lowest, '+', 'BYLEX', 'LIMIT',
    '0', scanned_text)
  for _, item in ipairs(scanned) do
    if string.sub(item, -#suffix) ~= suffix then items[#items + 1] = item end
    if items[2] then break end
  end
  return items, not items[1] and scanned[scanned_max] or nil
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
  local class, items = class_nodes.definition(id), keys.of('requirements', id)
  waiting.evict(id)
  for requirement, place in pairs(reply.by_name(redis.call('HGETALL', keys.requirements))) do
    local source, target, features = string.match(requirement, queue_pattern)
    if sources[source] and targets[target]
      and serves(class, classes.pair_subject(source, target), strings.split(features)) then
      write('ZADD', items, '0', place .. ':' .. requirement)
    end
  end
end

-- For repairs: build the waiting requirements of a class again from its stored definition. Bound:
-- the waiting requirements of the cell.
function classes.rebuild_waiting(id)
  class_nodes.evict(id)
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
    local pair = classes.pair_subject(source, target)
    if serves(class, pair, strings.split(features)) then ids[#ids + 1] = id end
  end
  return ids
end

-- A node leaves. A class without members is removed.
function classes.leave(id, node)
  class_nodes.set_load(id, node, nil)
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
  class_nodes.evict(id)
end
return classes
