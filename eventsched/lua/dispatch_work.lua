#!lua flags=allow-oom
-- dispatch_work: read the next entries of `work` and give each job to a node, or queue it (10-18).
-- Reading, deciding, writing and acknowledging are one step: whoever calls this may die anywhere.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   back_arg        0 to 60000 ms          the caller comes again by then: until it, whoever finalizes
--                                          gives its jobs away itself where `work` is empty
-- Reply: [last_id, left, jobs, waiting]   left: entries not read yet; last_id: of the last entry
--   read; waiting: of the jobs those whose nodes have no slot free
-- Refusals: INVALID_MESSAGE
-- Events: JobDispatched, JobQueued
-- Bound: 10 entries of at most 32 targets; 64 demands and 8 fills each
local log_key = KEYS[1]
local now_arg, back_arg = ARGV[1], ARGV[2]
local group, consumer, entries_max = 'dispatch', 'dispatcher', '10'
-- include: assign
-- include: owing
-- include: work
-- include: dead

local function read(from)
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', entries_max, 'STREAMS',
    keys.work, from)
  return reply and reply[1][2] or {}
end

-- `k` and `d` of an entry. One that was trimmed while it was pending comes without fields.
local function fields_of(entry)
  local flat = entry[2] or {}
  return flat[2], flat[4]
end

local function take(id, kind, d)
  if kind == 'fill' then
    local node = nodes.get(d)
    if node then assign.fill(node, 'work/' .. id) end
    return 0, 0
  end
  return owing.place(work.read(d))
end

local back_ms = text.int(back_arg, 0, 60000)
if not back_ms then return invalid('back_ms', '0 to 60000 ms') end
clock.now()
local entries = read('0')
if #entries == 0 then entries = read('>') end
if back_ms > 0 then write('HSET', keys.cell, 'dispatcher', text.of(clock.now() + back_ms)) end
local placed, waiting, last_id, ids = 0, 0, '0-0', {}
for i, entry in ipairs(entries) do
  local id, kind, d = entry[1], fields_of(entry)
  wrote = false
  local ok, result, found_none = pcall(take, id, kind, d)
  if ok then
    placed, waiting = placed + result, waiting + found_none
  else
    dead.park('work', id, kind or '', d or '', result)
  end
  ids[i], last_id = id, id
end
queue.flush()
local left = 0
if #ids > 0 then
  redis.call('XACK', keys.work, group, unpack(ids))
  local ms, seq = string.match(last_id, '^(%d+)%-(%d+)$')
  redis.call('XTRIM', keys.work, 'MINID', ms .. '-' .. string.format('%d', seq + 1))
  left = redis.call('XLEN', keys.work)
end
return { last_id, left, placed, waiting }
