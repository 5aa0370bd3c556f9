-- ordered_set: items { load, name, id } in this order, in blocks of at most 64 items. An insertion
-- or a removal searches by halves and moves the items of one block, so its cost hardly grows with
-- the set. The three fields of an item must not change while the item is in a set.
-- include: strings
local ordered_set = {}
local block_max = 64

-- A set is the list of its blocks. Only the block of an empty set is empty.
function ordered_set.new()
  return { {} }
end

-- The order of nodes: by load, then by name (rule 16, choosing a node). `other` is { name, load }.
function ordered_set.precedes(name, load, other)
  return load < other.load or load == other.load and strings.precedes(name, other.name)
end

-- Whether item `a` is before item `b`. One node is the head of two classes only while the first is
-- not read again: then `id` decides.
local function is_before(a, b)
  if a.load ~= b.load then return a.load < b.load end
  if a.name ~= b.name then return strings.precedes(a.name, b.name) end
  return strings.precedes(a.id, b.id)
end

-- The number of the block that has the item, or that gets it.
local function find_block(set, item)
  local low, high = 1, #set
  while low < high do
    local middle = (low + high - (low + high) % 2) / 2
    local block = set[middle]
    if is_before(block[#block], item) then low = middle + 1 else high = middle end
  end
  return low
end

-- Add an item that is not in the set.
function ordered_set.insert(set, item)
  local no = find_block(set, item)
  local block = set[no]
  local low, high = 1, #block + 1
  while low < high do
    local middle = (low + high - (low + high) % 2) / 2
    if is_before(block[middle], item) then low = middle + 1 else high = middle end
  end
  table.insert(block, low, item)
  if #block <= block_max then return end
  local second, half = {}, block_max / 2
  for i = half + 1, block_max + 1 do second[i - half], block[i] = block[i], nil end
  table.insert(set, no + 1, second)
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
  table.remove(block, at)
  if not block[1] and set[2] then table.remove(set, no) end
end

-- Copy the first `count` items of the set, or all, to a list. Returns how many were copied.
function ordered_set.copy_first(set, count, list)
  local copied, no, at, block = 0, 1, 1, set[1]
  while block and copied < count do
    local item = block[at]
    if item then
      copied, at = copied + 1, at + 1
      list[copied] = item
    else
      no, at = no + 1, 1
      block = set[no]
    end
  end
  return copied
end

-- The first two items of the set.
function ordered_set.first_two(set)
  local block, next_block = set[1], set[2]
  return block[1], block[2] or next_block and next_block[1]
end
return ordered_set
