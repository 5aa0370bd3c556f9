-- classes: capability classes, the sets of nodes with equal (sources, targets, features, marked).
-- Of a class is known, from call to call: its features and marks, how many are members and drain, how
-- many have a slot free, and the first of those.
-- include: cache
-- include: call
-- include: events
-- include: keys
-- include: numbers
-- include: strings
-- include: write
local classes = {}
call.on_begin(function()
  classes.pending_in, classes.pending, classes.pending_load = nil, nil, nil
end)
local looked_last, front_max, front_last = '63', 8, '7'

function classes.id_of(sources, targets, features, marked)
  return string.sub(redis.sha1hex(table.concat({ sources, targets, features, marked }, '|')), 1, 12)
end

function classes.get(id)
  local known = cache.of_cell().classes
  local class = known[id]
  if not class then
    local kept = redis.call('HMGET', keys.of('class', id), 'features', 'marked', 'draining')
    class = {
      id = id, key_of_free = keys.of('free', id), free = nil, front = nil, seen = nil, alone = nil,
      features = strings.set_of(kept[1]), marked = strings.set_of(kept[2]),
      draining = tonumber(kept[3]) or 0, total = redis.call('SCARD', keys.of('members', id)),
    }
    cache.put(known, id, class)
  end
  return class
end

-- It alone, as `serving` gives several.
function classes.only(id)
  local class = classes.get(id)
  class.alone = class.alone or { class, seen = {}, told = '' }
  return class.alone
end

-- The node that has moved takes its place.
function classes.write_load()
  local id, node, load = classes.pending_in, classes.pending, classes.pending_load
  if not id then return end
  classes.pending_in = nil
  local class = cache.of_cell().classes[id]
  local free = class and class.key_of_free or keys.of('free', id)
  if load then
    write('ZADD', free, numbers.text[load], node)
  else
    write('ZREM', free, node)
  end
end

call.on_commit(classes.write_load)

-- Its least loaded nodes with a free slot, in order, { name, load } each: the first two at least, if
-- there are so many. `free`: how many have one.
function classes.first_free(class)
  local front = class.front
  if front and (front[2] or #front == class.free) then return front end
  classes.write_load()
  front = {}
  local told = redis.call('ZRANGE', class.key_of_free, '0', front_last, 'WITHSCORES')
  for i = 1, #told, 2 do
    front[#front + 1] = { name = told[i], load = numbers.value[told[i + 1]] }
  end
  class.front, class.free = front, class.free or redis.call('ZCARD', class.key_of_free)
  return front
end

-- What an event says of the class as a decision saw it (rule 17), as JSON: `seen` until that
-- changes.
function classes.evidence(class)
  local first = classes.first_free(class)[1]
  class.seen = events.class_seen(class.id, first and first.name, first and first.load, class.free,
    class.total - class.free - class.draining, class.draining)
  return class.seen
end

-- A node's place among those with a free slot: by its load, or none. It is written when another node
-- moves, somebody reads a front, or the call ends (queue.flush): one that gives back eight slots in
-- a call moves once.
function classes.set_load(id, node, load)
  if classes.pending ~= node or classes.pending_in ~= id then classes.write_load() end
  classes.pending_in, classes.pending, classes.pending_load = id, node, load
end

-- By load, then by id. `other` as in a front.
function classes.precedes(node, load, other)
  return load < other.load or load == other.load and strings.precedes(node, other.name)
end

-- Its load was `was` and is `load`; either is nil when it had, or has, no slot free.
function classes.move(id, node, was, load)
  classes.set_load(id, node, load)
  local class = cache.of_cell().classes[id]
  local front = class and class.front
  if not front then return end
  local first, last = front[1], front[#front]
  local is_all, at, one = #front == class.free, 1, nil
  if was and first and was <= last.load then
    while front[at] and front[at].name ~= node do at = at + 1 end
    one = table.remove(front, at)
    last = front[#front]
  end
  if not was or not load then
    class.free, class.seen = class.free + (load and 1 or 0) - (was and 1 or 0), nil
  end
  if load then
    at = #front + 1
    if last and load <= last.load then
      while at > 1 and classes.precedes(node, load, front[at - 1]) do at = at - 1 end
    end
    -- Behind the last it has a place only where nobody can be between them.
    if front[at] or is_all then
      one = one or { name = node, load = nil }
      one.load = load
      table.insert(front, at, one)
      front[front_max + 1] = nil
    end
  end
  if front[1] ~= first or first and first.name == node then class.seen = nil end
end

function classes.evict(id)
  local here = cache.of_cell()
  here.classes[id], here.served = nil, {}
end

local function holds(set, features)
  for _, feature in ipairs(features) do
    if not set[feature] then return false end
  end
  return true
end

local function touches(set, features)
  for _, feature in ipairs(features) do
    if set[feature] then return true end
  end
  return false
end

-- Classes that can do it now, and whether any node is declared for it at all (rule 15).
function classes.matching(source, target, features)
  local demand = source .. ':' .. target .. ':' .. features
  local here = cache.of_cell()
  local served = here.served[demand]
  if not served then
    served = { classes.among(source, target, strings.split(features)) }
    cache.put(here.served, demand, served)
  end
  return served[1], served[2]
end

function classes.among(source, target, features)
  local pair = source .. ':' .. target
  local known_pairs = cache.of_cell().pairs
  local ids = known_pairs[pair]
  if not ids then
    ids = redis.call('SMEMBERS', keys.of('pair', source, target))
    table.sort(ids)
    cache.put(known_pairs, pair, ids)
  end
  local usable, declared = { has = {}, seen = {}, told = '' }, false
  for _, id in ipairs(ids) do
    local class = classes.get(id)
    if holds(class.features, features) then
      declared = true
      if not touches(class.marked, features) then
        usable[#usable + 1], usable.has[id] = class, true
      end
    end
  end
  return usable, declared
end

-- A node comes in. `kept` are its sources, targets, features, marked as joined text. A new class is
-- entered for each of its pairs (at most 1,024) and learns which waiting demands it serves.
function classes.join(id, node, kept)
  if cache.write_stable('SADD', keys.of('members', id), node) == 1
    and write('SADD', keys.classes, id) == 1 then
    cache.write_stable('HSET', keys.of('class', id), 'sources', kept.sources, 'targets', kept.targets,
      'features', kept.features, 'marked', kept.marked, 'draining', '0')
    local sources, targets = strings.split(kept.sources), strings.split(kept.targets)
    for _, source in ipairs(sources) do
      for _, target in ipairs(targets) do
        cache.write_stable('SADD', keys.of('pair', source, target), id)
      end
    end
    cache.of_cell().pairs = {}
    classes.watch(id, strings.set_of(kept.sources), strings.set_of(kept.targets))
  end
  classes.evict(id)
end

-- Of the demands with waiting jobs that this class serves the 64 not looked at for longest.
function classes.demands(id)
  local known = cache.of_cell().awaited
  if not known[id] then
    known[id] = redis.call('ZRANGE', keys.of('requirements', id), '0', looked_last)
  end
  return known[id]
end

-- A class looks at this demand after all others.
function classes.rotate(id, demand)
  local known = cache.of_cell().awaited
  local awaited = known[id]
  if awaited and #awaited == 1 and awaited[1] == demand then return end
  known[id] = nil
  local turn = write('HINCRBY', keys.counters, 'looked', 1)
  write('ZADD', keys.of('requirements', id), string.format('%d', turn), demand)
end

-- Nobody waits for it any more.
function classes.unwatch(id, demand)
  cache.of_cell().awaited[id] = nil
  write('ZREM', keys.of('requirements', id), demand)
end

-- Bound: the waiting demands of the cell.
function classes.watch(id, sources, targets)
  local class = classes.get(id)
  local waiting = redis.call('SMEMBERS', keys.requirements)
  table.sort(waiting)
  for _, demand in ipairs(waiting) do
    local source, target, features = string.match(demand, '^(.-):(.-):(.*)$')
    features = strings.split(features)
    if sources[source] and targets[target] and holds(class.features, features)
      and not touches(class.marked, features) then
      classes.rotate(id, demand)
    end
  end
end

-- A node goes out; a class without members is removed.
function classes.leave(id, node)
  classes.set_load(id, node, nil)
  cache.write_stable('SREM', keys.of('members', id), node)
  if redis.call('SCARD', keys.of('members', id)) == 0 then
    local kept = redis.call('HMGET', keys.of('class', id), 'sources', 'targets')
    local targets = strings.split(kept[2])
    for _, source in ipairs(strings.split(kept[1])) do
      for _, target in ipairs(targets) do
        cache.write_stable('SREM', keys.of('pair', source, target), id)
      end
    end
    write('SREM', keys.classes, id)
    cache.write_stable('DEL', keys.of('class', id), keys.of('requirements', id))
    cache.of_cell().awaited[id], cache.of_cell().pairs = nil, {}
  end
  classes.evict(id)
end
return classes
