-- clock: the time of the call, in ms. The time is the time of the server plus an offset, and never
-- goes back: if it would be earlier than the time of the previous call, the offset is increased and
-- ClockAdjusted is appended. A jump ahead is accepted. In a cell with a manual clock the time is
-- the argument of the caller, or else the time of the previous call. The record of the clock is one
-- line, `mode|offset|last time|generation`. The module `cache` uses the generation. The record is
-- the field of a hash, and is written before a call writes anything else: a caller that may not
-- write hashes, in which the state of sessions is, changes nothing.
-- include: call
-- include: damage
-- include: keys
-- include: write
local clock = { at = nil, at_text = nil, id = nil, stored = nil }
local hooks = {}
-- The record that this server has read or written last, as text and in parts: most calls read the
-- record that the previous call has written. `offset_ms` and `last_ms` are numbers.
local known = { text = nil, mode = nil, offset = nil, last = nil, generation = nil,
  offset_ms = nil, last_ms = nil }

call.on_begin(function()
  clock.at, clock.at_text, clock.id, clock.stored = nil, nil, nil, nil
end)

-- The clock calls two functions of modules that use the clock themselves. They register here.
-- `append(behind_ms, offset_ms)` appends ClockAdjusted.
function clock.on_adjusted(append)
  hooks.adjusted = append
end

-- `next_of(generation)` takes the generation in the record and returns the generation to store.
function clock.on_read(next_of)
  hooks.read = next_of
end

-- Whether the cell is configured. Otherwise the server has lost the data of the cell, or never had
-- it, and the call must write nothing: a later configuration would find half of a cell.
function clock.is_configured()
  if clock.stored == nil then clock.stored = redis.call('HGET', keys.clock, 'record') end
  return clock.stored ~= false
end

-- Mode, offset, last time and generation, as text. In a cell that is not configured the mode and
-- the generation are empty.
function clock.record()
  local text = clock.is_configured() and clock.stored or '|0|0|'
  if known.text ~= text then
    known.text = nil
    known.mode, known.offset, known.last, known.generation =
      string.match(text, '^(%a*)|(%d+)|(%d+)|([%d.]*)$')
    if not known.mode then damage.raise('clock', 'record') end
    known.offset_ms, known.last_ms = tonumber(known.offset), tonumber(known.last)
    known.text = text
  end
  return known.mode, known.offset, known.last, known.generation
end

-- The record is no part of an item of a batch, whichever item reads the time first.
local function store(text)
  local has_written = call.has_written
  clock.stored = text
  write('HSET', keys.clock, 'record', text)
  call.has_written = has_written
end

function clock.write_record(mode, offset, last, generation)
  store(mode .. '|' .. offset .. '|' .. last .. '|' .. generation)
end

-- Store the time of this call and the generation; the rest of the record stays.
local function write_time(generation)
  local last = clock.text()
  local text = known.mode .. '|' .. known.offset .. '|' .. last .. '|' .. generation
  store(text)
  known.last, known.last_ms, known.generation, known.text = last, clock.at, generation, text
end

local function read()
  local mode, _, _, generation = clock.record()
  local offset_ms, last_ms = known.offset_ms, known.last_ms
  if mode == 'manual' then
    clock.at = call.now_arg == '' and math.max(last_ms, 1) or tonumber(call.now_arg) + offset_ms
  else
    local time = redis.call('TIME')
    clock.at = time[1] * 1000 + math.floor(time[2] / 1000) + offset_ms
  end
  generation = hooks.read(generation)
  if clock.at >= last_ms then return write_time(generation) end
  local behind_ms, before = last_ms - clock.at, clock.stored
  clock.at = last_ms
  offset_ms = offset_ms + behind_ms
  clock.write_record(mode, string.format('%d', offset_ms), clock.text(), generation)
  call.or_else(function() write('HSET', keys.clock, 'record', before) end, hooks.adjusted,
    behind_ms, offset_ms)
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
