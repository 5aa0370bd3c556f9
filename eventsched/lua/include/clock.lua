-- clock: one time per call. now = time + offset and never goes back: behind the last now, the
-- offset is raised and ClockAdjusted appended; a jump ahead is taken as it is. The time is the
-- server's; in a manual cell it is what the call says, and without it time stands still.
-- now_arg: ms, or empty. ARCHITECTURE: one clock.
-- Its record is one line, `mode|offset|last|stamp`. The stamp is a number that no other call leaves
-- there: by it a server knows whether it was the last that changed the cell (include/memory).
-- include: call
-- include: keys
-- include: write
-- include: emit
clock = { cells = {}, count = 0 }
call.starts_with(function() clock.at, clock.told, clock.id, clock.here = nil, nil, nil, nil end)
local cells_max = 64

-- As `configure_cell` finds it, too: of a cell that nobody has configured no mode, and no stamp.
function clock.record()
  return string.match(redis.call('GET', keys.clock) or '|0|0|', '^(%a*)|(%d+)|(%d+)|(%d*)$')
end

-- One that the cell never had: microseconds of the server's time, and always more than the last. (A
-- clock set back could give two servers the same one, of which the loser's write would have to be lost
-- and the server to come back: nothing else of theirs would agree then, either.)
function clock.new_stamp(last)
  local time = redis.call('TIME')
  return math.max(time[1] * 1000000 + time[2], (tonumber(last) or 0) + 1)
end

-- What is known of the cell whose record has this stamp, with the one that this call leaves there.
local function recall(stamp)
  local here = clock.cells[log_key]
  if stamp == '' then
    here = { stamp = '' }
  elseif here and here.stamp == stamp then
    here.number = here.number + 1
    here.stamp = string.format('%d', here.number)
  else
    if not here then clock.count = clock.count + 1 end
    if clock.count > cells_max then clock.cells, clock.count = {}, 1 end
    local number = clock.new_stamp(stamp)
    here = { number = number, stamp = string.format('%d', number) }
    clock.cells[log_key] = here
  end
  clock.here = here
end

local function keep(mode, offset)
  write('SET', keys.clock, mode .. '|' .. offset .. '|' .. clock.text() .. '|' .. clock.here.stamp)
end

local function read()
  local mode, offset, last, stamp = clock.record()
  last = tonumber(last)
  if mode == 'manual' then
    clock.at = now_arg == '' and math.max(last, 1) or tonumber(now_arg) + tonumber(offset)
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
  emit({ t = 'ClockAdjusted', d = { behind_ms = behind, offset_ms = raised } })
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

-- A table for what is known of the cell; it is there in the next call unless somebody forgets it.
function clock.cell()
  clock.now()
  return clock.here
end
function clock.forget()
  if clock.cells[log_key] then clock.cells[log_key], clock.count = nil, clock.count - 1 end
end
