-- classes: capability classes, the sets of nodes with equal (asr, targets, services, marked).
-- What stands of a class (services, marks, how many are members and drain) is kept from call to call;
-- who is free, and its least loaded, a call reads once and knows until it changes that.
-- include: call
-- include: keys
-- include: write
-- include: standing
-- include: text
local classes = {}
call.starts_with(function()
  classes.awaited, classes.pending_in, classes.pending, classes.pending_load = {}, nil, nil, nil
end)
local looked_last = '63'

function classes.id_of(asr, targets, services, marked)
  return string.sub(redis.sha1hex(table.concat({ asr, targets, services, marked }, '|')), 1, 12)
end

function classes.get(id)
  local known = standing.of_cell().classes
  local class = known[id]
  if not class then
    local kept = redis.call('HMGET', keys.of('class', id), 'services', 'marked', 'draining')
    class = {
      id = id, key_of_free = keys.of('free', id), heads = nil, free = nil, seen = nil, alone = nil,
      services = text.set(kept[1]), marked = text.set(kept[2]), known_in = nil,
      draining = tonumber(kept[3]) or 0, total = redis.call('SCARD', keys.of('members', id)),
    }
    standing.keep(known, id, class)
  end
  return class
end

-- It alone, as `serving` gives several.
function classes.alone(id)
  local class = classes.get(id)
  class.alone = class.alone or { class, seen = {}, told = '' }
  return class.alone
end

-- The node that has moved takes its place.
function classes.flush()
  local id, node, load = classes.pending_in, classes.pending, classes.pending_load
  if not id then return end
  classes.pending_in = nil
  local class = standing.of_cell().classes[id]
  local free = class and class.key_of_free or keys.of('free', id)
  if load then
    write('ZADD', free, text.of[load], node)
  else
    write('ZREM', free, node)
  end
end

call.fails_with(classes.flush)

-- The two least loaded nodes with a free slot, and how many have one. Re-read when a change may
-- have touched the two.
function classes.heads(class)
  if class.known_in ~= call.number then
    class.known_in, class.heads, class.free, class.seen = call.number, nil, nil, nil
  end
  if not class.heads then
    classes.flush()
    class.heads = redis.call('ZRANGE', class.key_of_free, '0', '1', 'WITHSCORES')
    class.free = class.free or redis.call('ZCARD', class.key_of_free)
  end
  return class.heads
end

-- What an event says of the class as a decision saw it (rule 17), as JSON.
function classes.told(class)
  if class.known_in == call.number and class.seen then return class.seen end
  local heads = classes.heads(class)
  local head = heads[1] and ',"head":"' .. keys.full(heads[1]) .. '","load":' .. heads[2] or ''
  class.seen = '{"id":"' .. class.id .. '"' .. head .. ',"free":' .. text.of[class.free] .. ',"full":'
    .. text.of[class.total - class.free - class.draining] .. ',"draining":' .. text.of[class.draining]
    .. '}'
  return class.seen
end

-- A node's place among those with a free slot: by its load, or none. It is written when another node
-- moves, somebody asks for the heads, or the call ends (queue.flush): one that gives back eight slots in
-- a call moves once.
function classes.seat(id, node, load)
  if classes.pending ~= node or classes.pending_in ~= id then classes.flush() end
  classes.pending_in, classes.pending, classes.pending_load = id, node, load
end

local function goes_before(node, load, heads)
  local second, low = heads[3], text.number[heads[4]]
  return not second or load < low or load == low and text.before(node, second)
end

-- Its load was `was` and is `load`; either is nil when it had, or has, no slot free.
function classes.reseat(id, node, was, load)
  classes.seat(id, node, load)
  local class = standing.of_cell().classes[id]
  if not class or class.known_in ~= call.number then return end
  if (was == nil) ~= (load == nil) then
    class.free, class.seen = class.free + (load and 1 or -1), nil
  end
  local heads = class.heads
  if not heads then return end
  if not heads[3] and (not heads[1] or node == heads[1]) then
    -- No other has a free slot: nobody else can come first now.
    class.heads, class.seen = load and { node, text.of[load] } or {}, nil
  elseif node == heads[1] or node == heads[3] or load and goes_before(node, load, heads) then
    class.heads, class.seen = nil, nil
  end
end

function classes.changed(id)
  local here = standing.of_cell()
  here.classes[id], here.served = nil, {}
end

local function holds(set, services)
  for _, service in ipairs(services) do
    if not set[service] then return false end
  end
  return true
end

local function touches(set, services)
  for _, service in ipairs(services) do
    if set[service] then return true end
  end
  return false
end

-- Classes that can do it now, and whether any node is declared for it at all (rule 15).
function classes.serving(source, target, services)
  local demand = source .. ':' .. target .. ':' .. services
  local here = standing.of_cell()
  local served = here.served[demand]
  if not served then
    served = { classes.among(source, target, text.list(services)) }
    standing.keep(here.served, demand, served)
  end
  return served[1], served[2]
end

function classes.among(source, target, services)
  local pair = source .. ':' .. target
  local known_pairs = standing.of_cell().pairs
  local ids = known_pairs[pair]
  if not ids then
    ids = redis.call('SMEMBERS', keys.of('pair', source, target))
    table.sort(ids)
    standing.keep(known_pairs, pair, ids)
  end
  local usable, declared = { seen = {}, told = '' }, false
  for _, id in ipairs(ids) do
    local class = classes.get(id)
    if holds(class.services, services) then
      declared = true
      if not touches(class.marked, services) then usable[#usable + 1] = class end
    end
  end
  return usable, declared
end

-- A node comes in. `kept` are its asr, targets, services, marked as joined text. A new class is
-- entered for each of its pairs (at most 1,024) and learns which waiting demands it serves.
function classes.join(id, node, kept)
  if standing.write('SADD', keys.of('members', id), node) == 1
    and write('SADD', keys.classes, id) == 1 then
    standing.write('HSET', keys.of('class', id), 'asr', kept.asr, 'targets', kept.targets,
      'services', kept.services, 'marked', kept.marked, 'draining', '0')
    local sources, targets = text.list(kept.asr), text.list(kept.targets)
    for _, source in ipairs(sources) do
      for _, target in ipairs(targets) do
        standing.write('SADD', keys.of('pair', source, target), id)
      end
    end
    standing.of_cell().pairs = {}
    classes.adopt(id, text.set(kept.asr), text.set(kept.targets))
  end
  classes.changed(id)
end

-- Of the demands with waiting jobs that this class serves the 64 not looked at for longest.
function classes.demands(id)
  local awaited = classes.awaited[id]
  if not awaited then
    awaited = redis.call('ZRANGE', keys.of('demands', id), '0', looked_last)
    classes.awaited[id] = awaited
  end
  return awaited
end

-- A class looks at this demand after all others.
function classes.look_last(id, demand)
  local awaited = classes.awaited[id]
  if awaited and #awaited == 1 and awaited[1] == demand then return end
  classes.awaited[id] = nil
  local turn = write('HINCRBY', keys.cell, 'looked', 1)
  write('ZADD', keys.of('demands', id), string.format('%d', turn), demand)
end

-- Nobody waits for it any more.
function classes.look_away(id, demand)
  classes.awaited[id] = nil
  write('ZREM', keys.of('demands', id), demand)
end

-- Bound: the waiting demands of the cell.
function classes.adopt(id, sources, targets)
  local class = classes.get(id)
  local waiting = redis.call('SMEMBERS', keys.demands)
  table.sort(waiting)
  for _, demand in ipairs(waiting) do
    local source, target, services = string.match(demand, '^(.-):(.-):(.*)$')
    services = text.list(services)
    if sources[source] and targets[target] and holds(class.services, services)
      and not touches(class.marked, services) then
      classes.look_last(id, demand)
    end
  end
end

-- A node goes out; a class without members is removed.
function classes.leave(id, node)
  classes.seat(id, node, nil)
  standing.write('SREM', keys.of('members', id), node)
  if redis.call('SCARD', keys.of('members', id)) == 0 then
    local kept = redis.call('HMGET', keys.of('class', id), 'asr', 'targets')
    local targets = text.list(kept[2])
    for _, source in ipairs(text.list(kept[1])) do
      for _, target in ipairs(targets) do
        standing.write('SREM', keys.of('pair', source, target), id)
      end
    end
    write('SREM', keys.classes, id)
    standing.write('DEL', keys.of('class', id), keys.of('demands', id))
    classes.awaited[id], standing.of_cell().pairs = nil, {}
  end
  classes.changed(id)
end
