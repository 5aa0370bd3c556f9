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

-- The number of the block, and the place in it, of the first item that is not before this one.
local function find(set, item)
  local low, high = 1, #set
  while low < high do
    local middle = (low + high - (low + high) % 2) / 2
    local block = set[middle]
    if is_before(block[#block], item) then low = middle + 1 else high = middle end
  end
  local no, block = low, set[low]
  low, high = 1, #block + 1
  while low < high do
    local middle = (low + high - (low + high) % 2) / 2
    if is_before(block[middle], item) then low = middle + 1 else high = middle end
  end
  return no, low
end

-- Add an item that is not in the set.
function ordered_set.insert(set, item)
  local no, at = find(set, item)
  local block = set[no]
  table.insert(block, at, item)
  if #block <= block_max then return end
  local second, half = {}, block_max / 2
  for i = half + 1, block_max + 1 do second[i - half], block[i] = block[i], nil end
  table.insert(set, no + 1, second)
end

-- Remove an item of the set.
function ordered_set.remove(set, item)
  local no, at = 1, 1
  if set[1][1] ~= item then no, at = find(set, item) end
  table.remove(set[no], at)
  if not set[no][1] and set[2] then table.remove(set, no) end
end

-- The first `count` items of the set, or all, in order.
function ordered_set.first(set, count)
  local items, found = {}, 0
  for no = 1, #set do
    local block = set[no]
    for at = 1, #block do
      if found == count then return items end
      found = found + 1
      items[found] = block[at]
    end
  end
  return items
end
return ordered_set
