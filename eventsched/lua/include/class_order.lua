-- class_order: the classes that can take a job with a requirement, in the order of their heads,
-- with the numbers of their nodes. The head of a class is its least loaded node with a free slot.
-- An order is in memory only. The module `class_nodes` builds it from stored state and marks the
-- classes whose nodes have changed since; a marked class is read when the order is used.
-- include: ordered_set
local class_order = {}

-- `entries` has the classes by id, `heads` the entries of those with a free slot, `marked` those to
-- read. The numbers are sums over all classes: `count` of the classes, `free`, `full`
-- and `draining` of their nodes. `version` counts the changes.
function class_order.new()
  return { entries = {}, heads = ordered_set.new(), marked = {}, version = 0, count = 0, free = 0,
    full = 0, draining = 0 }
end

function class_order.mark(entry)
  if entry.is_marked then return end
  local marked = entry.order.marked
  entry.is_marked, marked[#marked + 1] = true, entry
end

-- Add a class and mark it. Returns its entry, in which `name` and `load` are those of its head, nil
-- without a free slot. `named` and `others` are the evidence for a choice of the class, as of
-- `version` of the order.
function class_order.add(order, id)
  local entry = { order = order, id = id, name = nil, load = nil, free = 0, full = 0, draining = 0,
    evidence = nil, is_marked = false, version = nil, named = nil, others = nil }
  order.entries[id], order.count = entry, order.count + 1
  class_order.mark(entry)
  return entry
end

-- Store what was read of a class: its head, { name, load } or nil, and { count, full, draining,
-- evidence } with the numbers of its nodes and its JSON.
function class_order.update(entry, head, nodes)
  local order, name, load = entry.order, head and head.name, head and head.load
  order.version, entry.evidence = order.version + 1, nodes.evidence
  if load ~= entry.load or name ~= entry.name then
    if entry.name then ordered_set.remove(order.heads, entry) end
    entry.name, entry.load = name, load
    if name then ordered_set.insert(order.heads, entry) end
  end
  local free, full, draining = nodes.count, nodes.full, nodes.draining
  if free == entry.free and full == entry.full and draining == entry.draining then return end
  order.free = order.free + free - entry.free
  order.full = order.full + full - entry.full
  order.draining = order.draining + draining - entry.draining
  entry.free, entry.full, entry.draining = free, full, draining
end

-- Remove a class. Its entry may still be marked.
function class_order.remove(entry)
  local order = entry.order
  class_order.update(entry, nil, { count = 0, full = 0, draining = 0, evidence = nil })
  order.entries[entry.id], order.count, entry.order = nil, order.count - 1, nil
end
return class_order
