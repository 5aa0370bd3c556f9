-- clock: one time per call. now = time + offset and never goes back: behind the last now, the
-- offset is raised and ClockAdjusted appended; a jump ahead is taken as it is. The time is the
-- server's; in a manual cell it is what the call says, and without it time stands still.
-- now_arg: ms, or empty. ARCHITECTURE: one clock.
-- Its record is one line, `mode|offset|last|stamp`. The stamp is a number that no other call leaves
-- there: by it a server knows whether it was the last that changed the cell (include/memory).
-- include: call
-- include: keys
-- include: write
local clock = { cells = {}, total = 0, newest = 0 }
call.on_begin(function() clock.at, clock.told, clock.id, clock.here = nil, nil, nil, nil end)
local kept_max = 16384
local adjusted = {}

-- `report(behind_ms, offset_ms)` appends ClockAdjusted. The module that appends events needs the clock,
-- so it hands this over when it is loaded.
function clock.on_adjusted(report)
  adjusted[1] = report
end

-- As `configure_cell` finds it, too: of a cell that nobody has configured no mode, and no stamp.
function clock.record()
  return string.match(redis.call('GET', keys.clock) or '|0|0|', '^(%a*)|(%d+)|(%d+)|(%d*)$')
end

-- One that the cell never had, nor any other of this server: microseconds of its time, and always more
-- than the last. (With a clock that was set back two servers could give the same one to what each made
-- of a cell; then both would have to go on from there.)
function clock.new_generation(last)
  local time = redis.call('TIME')
  local least = math.max(clock.newest, tonumber(last) or 0) + 1
  clock.newest = math.max(time[1] * 1000000 + time[2], least)
  return string.format('%d', clock.newest)
end

-- What is known of the cell whose record has this stamp, with the one that this call leaves there.
-- `total` counts what the calls before have added to all cells: with more than may be, all of it goes.
local function recall(stamp)
  if clock.total > kept_max then clock.cells, clock.total = {}, 0 end
  local here = clock.cells[call.log_key]
  if stamp == '' then
    clock.here = { stamp = '', count = 0 }
    return
  elseif here and here.stamp == stamp then
    clock.newest = clock.newest + 1
    here.stamp = string.format('%d', clock.newest)
  else
    clock.forget()
    here = { stamp = clock.new_generation(stamp), count = 1, counted = 0 }
    clock.cells[call.log_key] = here
  end
  clock.here = here
  clock.total, here.counted = clock.total + here.count - here.counted, here.count
end

local function keep(mode, offset)
  write('SET', keys.clock, mode .. '|' .. offset .. '|' .. clock.text() .. '|' .. clock.here.stamp)
end

local function read()
  local mode, offset, last, stamp = clock.record()
  last = tonumber(last)
  if mode == 'manual' then
    clock.at = call.now_arg == '' and math.max(last, 1) or tonumber(call.now_arg) + tonumber(offset)
  else
    local time = redis.call('TIME')
    clock.at = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(offset)
  end
  recall(stamp)
  local behind = last - clock.at
  if behind <= 0 then return keep(mode, offset) end
  clock.at = last
  local raised = tonumber(offset) + behind
  keep(mode, string.format('%d', raised))
  adjusted[1](behind, raised)
end

function clock.now()
  if not clock.at then read() end
  return clock.at
end

-- The time as text, and the id of an entry that is appended now.
function clock.text()
  if not clock.told then clock.told = string.format('%d', clock.now()) end
  return clock.told
end
function clock.entry_id()
  if not clock.id then clock.id = clock.text() .. '-*' end
  return clock.id
end

-- A table for what is known of the cell, and `count` how much that is; it is there in the next call
-- unless somebody forgets it.
function clock.cell()
  clock.now()
  return clock.here
end
function clock.forget()
  local here = clock.cells[call.log_key]
  if here then clock.cells[call.log_key], clock.total = nil, clock.total - here.counted end
end
return clock
