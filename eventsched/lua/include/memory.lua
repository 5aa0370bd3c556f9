-- memory: what the functions know of a cell from call to call. It is right because nobody changes any
-- of it but they: every call leaves a stamp in the clock's record, and where the next one finds another
-- (a server that was the primary in between, functions of another release, data that was set back) it
-- begins with nothing. A call that fails, or parks something that failed, leaves nothing either.
-- include: call
-- include: keys
-- include: write
-- include: clock
local memory = {}
call.starts_with(function() memory.here = nil end)
call.fails_with(clock.forget)
local kept_max = 8192

-- What hardly ever changes: settings, live (where the views of groups are), is_pressed, keeps_audio;
-- nodes, with how many leases they hold; classes, with who is free; pairs, served; the demands that
-- somebody waits for, awaited by class. And used: the node and turn of sessions; backlog: how many jobs
-- of a tenant wait; dispatcher: until when it counts as being there.
local function begin(here)
  here.count = 0
  here.settings, here.live, here.is_pressed, here.keeps_audio, here.dispatcher = nil, nil, nil, nil, nil
  here.nodes, here.classes, here.pairs, here.served = {}, {}, {}, {}
  here.waits, here.awaited, here.used, here.backlog = {}, {}, {}, {}
end

-- Bound: so many things; with one more it begins with nothing.
function memory.of_cell()
  local here = memory.here
  if not here then
    here = clock.cell()
    if not here.count or here.count > kept_max then begin(here) end
    memory.here = here
  end
  return here
end

-- In one of the tables of `of_cell`.
function memory.keep(known, id, value)
  if known[id] == nil then memory.here.count = memory.here.count + 1 end
  known[id] = value
end

-- For what is read once and stands: `name` of the cell, as `read` finds it, which is never nil.
function memory.once(name, read)
  local here = memory.of_cell()
  if here[name] == nil then here[name] = read() end
  return here[name]
end

-- A change of what stands. What this call knows is its own from here on: the next begins with nothing.
function memory.write(...)
  memory.of_cell()
  clock.forget()
  return write(...)
end
