-- clock: one time per call. now = time + offset and never goes back: behind the last now, the
-- offset is raised and ClockAdjusted appended; a jump ahead is taken as it is. The time is the
-- server's; in a manual cell it is what the call says, and without it time stands still.
-- now_arg: ms, or empty. ARCHITECTURE: one clock.
-- Its record is one line, `mode|offset|last|generation`; the last is include/standing's.
-- include: call
-- include: keys
-- include: write
-- include: emit
clock = {}
call.starts_with(function()
  clock.at, clock.told, clock.id, clock.mode, clock.offset, clock.gen = nil, nil, nil, nil, nil, nil
end)

-- As `configure_cell` finds it, too: of a cell that nobody has configured no mode.
function clock.record()
  return string.match(redis.call('GET', keys.clock) or '|0|0|', '^(%a*)|(%d+)|(%d+)|(%d*)$')
end

local function keep()
  write('SET', keys.clock, clock.mode .. '|' .. clock.offset .. '|' .. clock.text() .. '|' .. clock.gen)
end

local function read()
  local mode, offset, last, generation = clock.record()
  clock.mode, clock.offset, clock.gen = mode, offset, generation
  last = tonumber(last)
  if mode == 'manual' then
    clock.at = now_arg == '' and math.max(last, 1) or tonumber(now_arg) + tonumber(offset)
  else
    local time = redis.call('TIME')
    clock.at = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(offset)
  end
  local behind = last - clock.at
  if behind > 0 then
    clock.at = last
    local raised = tonumber(offset) + behind
    clock.offset = string.format('%d', raised)
    keep()
    emit({ t = 'ClockAdjusted', d = { behind_ms = behind, offset_ms = raised } })
  elseif behind < 0 then
    keep()
  end
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

function clock.generation()
  clock.now()
  return clock.gen
end

-- One that the cell never had: microseconds of the server's time, and always more than the last. (A
-- clock set back could give two servers the same one, of which the loser's write would have to be lost
-- and the server to come back: nothing else of theirs would agree then, either.)
function clock.next_generation(last)
  local time = redis.call('TIME')
  return string.format('%d', math.max(time[1] * 1000000 + time[2], (tonumber(last) or 0) + 1))
end
function clock.renew()
  clock.gen = clock.next_generation(clock.generation())
  keep()
end
