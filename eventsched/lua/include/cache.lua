-- cache: what the functions have read of a cell, from call to call. Its owners read through it
-- (they say how a missing value is read), put what they have written, and evict. Nobody else sees
-- the values.
--
-- When it is valid. Each call stores a generation in the clock's record, a number that the cell
-- never had. A call uses the cache only if the generation in Redis equals the one that the previous
-- call on this server stored. Otherwise another server was the primary meanwhile, another release's
-- functions have written, or the data was set back, and the call starts with an empty cache. So
-- does the call after one that failed or added a dead letter: such a call may have ended between a
-- write and its `put`.
--
-- Two tiers. `stable` holds what hardly ever changes: settings, registrations, classes. Its keys
-- are written by `cache.write_stable`, which invalidates everything. `live` mirrors state that
-- every call changes: loads, queues, sessions, open outcomes. The setting `cache_live_state` = 0
-- switches it off: then a call starts without it.
-- include: call
-- include: clock
-- include: keys
-- include: write
local cache = { cell = nil }
local items_max = 16384
local kinds = {}
-- `cells`: by the key of the log. `items`: how many the calls before have added to all cells.
-- `newest`: the last generation that was given out.
local store = { cells = {}, items = 0, newest = 0 }

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

-- A generation that the cell never had, nor another server of it: microseconds of the server's
-- time, and more than every one before. (Two servers whose clocks were set back could give out the
-- same one; then both would have to write to the cell without having seen the other's writes.)
function cache.new_generation(last)
  local time = redis.call('TIME')
  local least = math.max(store.newest, tonumber(last) or 0) + 1
  store.newest = math.max(time[1] * 1000000 + time[2], least)
  return string.format('%d', store.newest)
end

-- Calls that follow start with an empty cache. This call keeps what it has read: it has made the
-- changes.
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

-- The call that reads the clock gets the cell's cache. Once there are too many items, those of all
-- cells go.
clock.on_read(function(generation)
  if store.items > items_max then store.cells, store.items = {}, 0 end
  local cell = store.cells[call.log_key]
  if generation == '' then -- nobody has configured the cell: nothing stays
    cache.cell = new_cell('')
    return ''
  elseif cell and cell.generation == generation then
    store.newest = store.newest + 1
    cell.generation = string.format('%d', store.newest)
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

-- A kind of value, by id. `read(id)` reads a value from Redis; nil is not cached.
function cache.register(name, tier, read)
  kinds[#kinds + 1] = { name = name, tier = tier, is_single = false }
  local kind = {}

  -- The value, from the cache or as it is read.
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

  -- The value that the caller has written.
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

  -- A value holds so many items more, which count like values.
  function kind.grow(items)
    local cell = cache.cell or open()
    cell[tier] = cell[tier] + items
  end
  return kind
end

-- A single value of the cell. `read()` never returns nil.
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

-- For tests: what is cached of a cell, by kind, with its generation and the number of items of each
-- tier.
function cache.contents(log_key)
  return store.cells[log_key]
end
return cache
