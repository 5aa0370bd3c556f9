-- class_order: the classes that can take a job with a requirement, in the order of their heads,
-- with the numbers of their nodes. The head of a class is its least loaded node with a free slot.
-- An order is in memory only. The module `classes` builds it from stored state and marks the
-- classes whose nodes have changed since; a marked class is read when the order is used.
-- include: ordered_set
local class_order = {}

-- `heads` has the entries of the classes with a free slot, `marked` those to read. The numbers are
-- sums over all classes: `count` of the classes, `total`, `draining` and `free` of their nodes.
function class_order.new()
  return { heads = ordered_set.new(), marked = {}, count = 0, total = 0, draining = 0, free = 0 }
end

function class_order.mark(entry)
  if entry.is_marked then return end
  local marked = entry.order.marked
  entry.is_marked, marked[#marked + 1] = true, entry
end

-- Add a class and mark it. Returns its entry, in which `name` and `load` are those of its head, nil
-- without a free slot.
function class_order.add(order, id)
  local entry = { order = order, id = id, name = nil, load = nil, total = 0, draining = 0, free = 0,
    is_marked = false }
  order.count = order.count + 1
  class_order.mark(entry)
  return entry
end

-- An entry that was marked, marked no more; nil if there is none.
function class_order.take_marked(order)
  local marked = order.marked
  local entry = marked[#marked]
  if entry then entry.is_marked, marked[#marked] = false, nil end
  return entry
end

-- Store what was read of a class. `head` is { name, load }, or nil.
function class_order.update(entry, head, total, draining, free)
  local order, name, load = entry.order, head and head.name, head and head.load
  if name ~= entry.name or load ~= entry.load then
    if entry.name then ordered_set.remove(order.heads, entry) end
    entry.name, entry.load = name, load
    if name then ordered_set.insert(order.heads, entry) end
  end
  order.total = order.total + total - entry.total
  order.draining = order.draining + draining - entry.draining
  order.free = order.free + free - entry.free
  entry.total, entry.draining, entry.free = total, draining, free
end

-- Remove a class. Its entry may still be marked.
function class_order.remove(entry)
  local order = entry.order
  class_order.update(entry, nil, 0, 0, 0)
  order.count, entry.order = order.count - 1, nil
end
return class_order
