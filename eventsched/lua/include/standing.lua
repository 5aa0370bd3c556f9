-- standing: what stands in a cell for long: settings, nodes, classes, where the views of groups are,
-- whether producers are refused. It stays here from call to call, under the cell's `generation`: every
-- call reads that with the clock, and whatever changes any of it gives the cell another one. So
-- nothing is used that has changed since, whoever changed it: another server that was the primary in
-- between, functions of another release.
-- include: call
-- include: keys
-- include: write
-- include: clock
local standing = { cells = {} }
call.starts_with(function() standing.here = nil end)
local cells_max, kept_max = 64, 8192

local function fresh()
  return { generation = clock.generation(), count = 0, settings = nil, live = nil, is_pressed = nil,
    keeps_audio = nil, nodes = {}, classes = {}, pairs = {}, served = {} }
end

-- What this call knows of its cell: what is kept, if nothing of it has changed. Bound: so many things,
-- and cells; what is above goes and is read again.
function standing.of_cell()
  local here = standing.here
  if not here then
    local generation = clock.generation()
    here = standing.cells[keys.log]
    if not here or here.generation ~= generation or here.count > kept_max then
      here = fresh()
      standing.cells[keys.log] = nil
      local cells = 0
      for _ in pairs(standing.cells) do cells = cells + 1 end
      if cells >= cells_max then standing.cells = {} end
      -- A cell that nobody has configured has no generation.
      if generation ~= '' then standing.cells[keys.log] = here end
    end
    standing.here = here
  end
  return here
end

-- One thing more, in one of the tables of `of_cell`.
function standing.keep(known, id, value)
  known[id] = value
  standing.here.count = standing.here.count + 1
end

-- The only way to change what stands. What this call knows is its own from here on: it goes when the
-- call ends, and no later one finds the generation that it was read under.
function standing.write(...)
  local here = standing.of_cell()
  if here.generation ~= nil then
    here.generation, standing.cells[keys.log] = nil, nil
    clock.renew()
  end
  return write(...)
end
