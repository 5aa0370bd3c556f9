-- cache: values of a cell that stay in memory from call to call. The module that owns a kind of
-- value reads through the cache, puts a value after writing it, and evicts. No other module sees
-- the values.
--
-- Validity. Each call stores a new generation in the record of the clock, a number that the cell
-- has never had. A call uses the cache only if the generation in Redis equals the one that the
-- previous call on this server stored. Otherwise another server was the primary meanwhile,
-- functions of another release have written, or the data was restored from a backup, and the call
-- starts with an empty cache. The call after a call that failed, or that added a dead letter,
-- starts with an empty cache as well: that call may have ended between a write and its `put`.
--
-- Two tiers. `stable` holds values that seldom change: settings, registrations, classes. Their keys
-- are written by `cache.write_stable`, which invalidates the whole cache. `live` mirrors state that
-- every call changes: loads, queues, sessions, open outcomes. With the setting
-- `cache_live_state` = 0 each call starts with an empty `live` tier.
-- include: call
-- include: clock
-- include: keys
-- include: write
local cache = { cell = nil }
local items_max = 32768
local kinds = {}
-- A generation is `<seconds>.<number>`; generations compare by seconds, then by number. Both parts
-- stay far below 2^53, up to which a double adds 1 exactly.
local part_max = 2 ^ 52
-- `cells`: the caches by the key of the log. `items`: the number of items that earlier calls have
-- added to all cells. `seconds`, `number`: the last generation that this server has created.
local store = { cells = {}, items = 0, seconds = 0, number = 0 }

call.on_begin(function() cache.cell = nil end)

local function empty(cell, tier)
  for _, kind in ipairs(kinds) do
    if kind.tier == tier then
      cell[kind.name] = nil
      if not kind.is_single then cell[kind.name] = {} end
    end
  end
  cell[tier] = 0
end

local function new_cell(generation)
  local cell = { generation = generation, counted = 0, keeps_live = nil }
  empty(cell, 'stable')
  empty(cell, 'live')
  return cell
end

-- The parts of a generation; 0 and 0 for text that is no generation, which no call creates.
local function parts(generation)
  local seconds, number = string.match(generation or '', '^(%d+)%.(%d+)$')
  seconds, number = tonumber(seconds) or part_max, tonumber(number) or part_max
  if seconds >= part_max or number >= part_max then return 0, 0 end
  return seconds, number
end

local function text()
  return string.format('%d.%d', store.seconds, store.number)
end

-- A generation that neither this cell nor another server of it has had: the time of the server, in
-- seconds and microseconds, if this is greater than every earlier generation, and otherwise the
-- greatest earlier generation with the next number. (Two servers whose clocks were set back could
-- create the same generation. A stale cache would need both to write to the cell, each without the
-- writes of the other.)
function cache.new_generation(last)
  local time, seconds, number = redis.call('TIME'), parts(last)
  if store.seconds > seconds or store.seconds == seconds and store.number > number then
    seconds, number = store.seconds, store.number
  end
  local now, micros = tonumber(time[1]), tonumber(time[2])
  if now > seconds or now == seconds and micros > number then
    seconds, number = now, micros
  else
    number = number + 1
  end
  store.seconds, store.number = seconds, number
  return text()
end

-- The next call starts with an empty cache. This call keeps its values: it has made the changes
-- itself.
function cache.invalidate()
  local cell = store.cells[call.log_key]
  if cell then store.cells[call.log_key], store.items = nil, store.items - cell.counted end
end

call.on_error(cache.invalidate)

local function keeps_live(cell)
  if cell.keeps_live == nil then
    cell.keeps_live = redis.call('HGET', keys.settings, 'cache_live_state') ~= '0'
  end
  return cell.keeps_live
end

-- Reading the clock opens the cache of the cell. If there are too many items, the caches of all
-- cells are dropped.
clock.on_read(function(generation)
  if store.items > items_max then store.cells, store.items = {}, 0 end
  local cell = store.cells[call.log_key]
  if cell and cell.generation == generation then
    store.number = store.number + 1
    cell.generation = text()
    if not keeps_live(cell) then empty(cell, 'live') end
  else
    cache.invalidate()
    cell = new_cell(cache.new_generation(generation))
    store.cells[call.log_key] = cell
  end
  cache.cell = cell
  local items = cell.stable + cell.live
  store.items, cell.counted = store.items + items - cell.counted, items
  return cell.generation
end)

local function open()
  clock.now()
  return cache.cell
end

-- Register a kind of value, by id. `read(id)` reads a value from Redis; nil is not cached.
function cache.register(name, tier, read)
  kinds[#kinds + 1] = { name = name, tier = tier, is_single = false }
  local kind = {}

  -- The value from the cache, or else from Redis.
  function kind.read_through(id)
    local value = (cache.cell or open())[name][id]
    if value == nil then
      value = read(id)
      if value ~= nil then kind.put(id, value) end
    end
    return value
  end

  -- The value if it is in the cache, else nil.
  function kind.peek(id)
    return (cache.cell or open())[name][id]
  end

  -- The values in the cache, by id, for a caller that looks several of them up. They are read only.
  function kind.values()
    return (cache.cell or open())[name]
  end

  -- Cache the value that the caller has written.
  function kind.put(id, value)
    local cell = cache.cell or open()
    local values = cell[name]
    if values[id] == nil then cell[tier] = cell[tier] + 1 end
    values[id] = value
  end

  function kind.evict(id)
    local cell = cache.cell or open()
    local values = cell[name]
    if values[id] ~= nil then cell[tier] = cell[tier] - 1 end
    values[id] = nil
  end

  function kind.evict_all()
    (cache.cell or open())[name] = {}
  end

  -- A value has this many more items, which count like values.
  function kind.grow(items)
    local cell = cache.cell or open()
    cell[tier] = cell[tier] + items
  end
  return kind
end

-- Register a single value of the cell. `read()` never returns nil.
function cache.register_single(name, tier, read)
  kinds[#kinds + 1] = { name = name, tier = tier, is_single = true }
  local kind = {}

  function kind.read_through()
    local cell = cache.cell or open()
    local value = cell[name]
    if value == nil then
      value = read()
      cell[name] = value
    end
    return value
  end

  function kind.put(value)
    (cache.cell or open())[name] = value
  end
  return kind
end

-- Write a key that the stable tier caches.
function cache.write_stable(...)
  clock.now()
  cache.invalidate()
  return write(...)
end

-- For tests: the cached values of a cell by kind, its generation, and the number of items of each
-- tier.
function cache.contents(log_key)
  return store.cells[log_key]
end
return cache
