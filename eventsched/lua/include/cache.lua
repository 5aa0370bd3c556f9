-- cache: what the functions know of a cell from call to call. It is right because nobody changes any
-- of it but they: every call leaves a stamp in the clock's record, and where the next one finds another
-- (a server that was the primary in between, functions of another release, data that was set back) it
-- begins with nothing. A call that fails, or parks something that failed, leaves nothing either.
-- include: call
-- include: clock
-- include: write
local cache = {}
call.on_begin(function() cache.here = nil end)
call.on_error(clock.forget)

-- Beside what is read by `once`: nodes, with how many leases they hold; classes, with who is free; pairs
-- and demands with the classes that serve them; demands that somebody waits for, and by class which
-- are awaited; how many jobs of a tenant wait; sessions as speakers and as listeners, their open
-- outcomes, and the node and turn that each used last.
local function begin(here)
  here.nodes, here.classes, here.pairs, here.served = {}, {}, {}, {}
  here.waits, here.awaited, here.backlog = {}, {}, {}
  here.sessions, here.listeners, here.outcomes = {}, {}, {}
  here.used, here.turns = {}, {}
end

function cache.of_cell()
  local here = cache.here
  if not here then
    here = clock.cell()
    if not here.nodes then begin(here) end
    cache.here = here
  end
  return here
end

-- In one of the tables of `of_cell`.
function cache.put(known, id, value)
  if known[id] == nil then cache.here.count = cache.here.count + 1 end
  known[id] = value
end

function cache.evict(known, id)
  if known[id] ~= nil then cache.here.count = cache.here.count - 1 end
  known[id] = nil
end

-- For what is read once and stands: `name` of the cell, as `read` finds it, which is never nil. Each
-- setting comes this way: to ask `of_cell` every time would be 1 % of a chunk.
function cache.once(name, read)
  local here = cache.here or cache.of_cell()
  local value = here[name]
  if value == nil then
    value = read()
    here[name] = value
  end
  return value
end

-- A change of what stands. What this call knows is its own from here on: the next begins with nothing.
function cache.write_stable(...)
  cache.of_cell()
  clock.forget()
  return write(...)
end
return cache
