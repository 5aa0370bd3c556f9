-- ordered_set: items { load, name, id } in this order, in blocks of at most 64 items. An insertion
-- or a removal searches by halves and moves the items of one block, so its cost hardly grows with
-- the set. The three fields of an item must not change while the item is in a set.
-- include: strings
local ordered_set = {}
local block_max = 64
local insert, remove = table.insert, table.remove

-- A set is the list of its blocks. Only the block of an empty set is empty.
function ordered_set.new()
  return { {} }
end

-- The order of nodes: by load, then by name (rule 16, choosing a node). `other` is { name, load }.
function ordered_set.precedes(name, load, other)
  return load < other.load or load == other.load and strings.precedes(name, other.name)
end

-- Whether item `a` is before item `b`, which has the same load. One node is the head of two classes
-- only while the first is not read again: then `id` decides.
local function is_tie_before(a, b)
  if a.name ~= b.name then return strings.precedes(a.name, b.name) end
  return strings.precedes(a.id, b.id)
end

-- The number of the block that has the item, or that gets it.
local function find_block(set, item)
  local low, high, load = 1, #set, item.load
  while low < high do
    local middle = (low + high - (low + high) % 2) / 2
    local block = set[middle]
    local last = block[#block]
    if last.load < load or last.load == load and is_tie_before(last, item) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- Add an item that is not in the set.
function ordered_set.insert(set, item)
  local no = find_block(set, item)
  local block, load = set[no], item.load
  local low, high = 1, #block + 1
  while low < high do
    local middle = (low + high - (low + high) % 2) / 2
    local other = block[middle]
    if other.load < load or other.load == load and is_tie_before(other, item) then
      low = middle + 1
    else
      high = middle
    end
  end
  insert(block, low, item)
  if #block <= block_max then return end
  local second, half = {}, block_max / 2
  for i = half + 1, block_max + 1 do second[i - half], block[i] = block[i], nil end
  insert(set, no + 1, second)
end

-- Remove an item of the set. A comparison of all items of a block for identity costs less than a
-- few comparisons of names. An item that is not found fails the call, which empties the cache.
function ordered_set.remove(set, item)
  local no, at = find_block(set, item), 1
  local block = set[no]
  while block[at] ~= item do
    if not block[at] then error('the item is not in the set') end
    at = at + 1
  end
  remove(block, at)
  if not block[1] and set[2] then remove(set, no) end
end

-- A list that begins with the first `count` items of the set, or has all. The list is read only.
function ordered_set.first(set, count)
  if set[1][count] or not set[2] then return set[1] end
  local list = {}
  for _, block in ipairs(set) do
    for _, item in ipairs(block) do
      list[#list + 1] = item
      if list[count] then return list end
    end
  end
  return list
end

-- The first two items of the set.
function ordered_set.first_two(set)
  local block, next_block = set[1], set[2]
  return block[1], block[2] or next_block and next_block[1]
end
return ordered_set
