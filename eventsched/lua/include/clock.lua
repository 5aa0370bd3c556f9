-- clock: one time per call. now = time + offset and never goes back: behind the last now, the
-- offset is raised and ClockAdjusted appended; a jump ahead is taken as it is. The time is the
-- server's; in a manual cell it is what the call says, and without it time stands still.
-- now_arg: ms, or empty. ARCHITECTURE: one clock.
-- include: call
-- include: keys
-- include: write
-- include: emit
clock = {}
call.starts_with(function() clock.at, clock.told, clock.id = nil, nil, nil end)

local function read()
  local kept = redis.call('HMGET', keys.clock, 'mode', 'offset', 'last')
  local last = tonumber(kept[3]) or 0
  local offset = tonumber(kept[2]) or 0
  if kept[1] == 'manual' then
    clock.at = now_arg == '' and math.max(last, 1) or tonumber(now_arg) + offset
  else
    local time = redis.call('TIME')
    clock.at = time[1] * 1000 + math.floor(time[2] / 1000) + offset
  end
  local behind = last - clock.at
  if behind > 0 then
    clock.at = last
    offset = offset + behind
    write('HSET', keys.clock, 'offset', string.format('%d', offset))
    emit({ t = 'ClockAdjusted', d = { behind_ms = behind, offset_ms = offset } })
  end
  if clock.at ~= last then
    write('HSET', keys.clock, 'last', clock.text())
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
