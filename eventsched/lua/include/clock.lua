-- clock: the time of the call, in ms. It is time + offset and never goes back: where it would be
-- before the last call's, the offset is raised and ClockAdjusted appended. A jump ahead is taken as
-- it is. The time is the server's; in a cell with a manual clock it is the time that the caller
-- gives, or else the last one. The record of the clock is one line, `mode|offset|last
-- time|generation`; `cache` says what the generation is for.
-- include: call
-- include: keys
-- include: write
local clock = { at = nil, at_text = nil, id = nil }
local hooks = {}

call.on_begin(function() clock.at, clock.at_text, clock.id = nil, nil, nil end)

-- Modules that need the clock themselves register here what the clock needs of them:
-- `append(behind_ms, offset_ms)` appends ClockAdjusted;
function clock.on_adjusted(append)
  hooks.adjusted = append
end

-- `next_of(generation)` takes the generation that the record has, and returns the one to store.
function clock.on_read(next_of)
  hooks.read = next_of
end

-- Mode, offset, last time and generation, as text. In a cell that nobody has configured the mode
-- and the generation are empty.
function clock.record()
  return string.match(redis.call('GET', keys.clock) or '|0|0|', '^(%a*)|(%d+)|(%d+)|(%d*)$')
end

function clock.write_record(mode, offset, last, generation)
  write('SET', keys.clock, mode .. '|' .. offset .. '|' .. last .. '|' .. generation)
end

local function read()
  local mode, offset, last, generation = clock.record()
  last = tonumber(last)
  if mode == 'manual' then
    clock.at = call.now_arg == '' and math.max(last, 1) or tonumber(call.now_arg) + tonumber(offset)
  else
    local time = redis.call('TIME')
    clock.at = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(offset)
  end
  generation = hooks.read(generation)
  local behind_ms = last - clock.at
  if behind_ms <= 0 then return clock.write_record(mode, offset, clock.text(), generation) end
  clock.at = last
  local offset_ms = tonumber(offset) + behind_ms
  clock.write_record(mode, string.format('%d', offset_ms), clock.text(), generation)
  hooks.adjusted(behind_ms, offset_ms)
end

function clock.now()
  if not clock.at then read() end
  return clock.at
end

-- The time as text.
function clock.text()
  if not clock.at_text then clock.at_text = string.format('%d', clock.now()) end
  return clock.at_text
end

-- The id of an entry that is appended now.
function clock.entry_id()
  if not clock.id then clock.id = clock.text() .. '-*' end
  return clock.id
end
return clock
