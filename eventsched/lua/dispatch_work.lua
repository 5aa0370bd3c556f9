#!lua flags=allow-oom
-- dispatch_work: read the next entries of `work` and give each job to a node, or queue it (10-18).
-- Reading, deciding, writing and acknowledging are one step: whoever calls this may die anywhere.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
-- Reply: [last_id, left, jobs]   left: entries not read yet; last_id: of the last entry read
-- Refusals: none
-- Events: JobDispatched, JobQueued
-- Bound: 12 entries of at most 32 targets; 64 demands and 8 fills each
local log_key = KEYS[1]
local now_arg = ARGV[1]
local group, consumer, entries_max = 'dispatch', 'dispatcher', '12'
-- include: deliver
-- include: assign
-- include: work

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

-- The jobs that this utterance still owes and nobody has created yet (rules 10, 25), and how many
-- it no longer does.
local function jobs_of(wanted)
  local list, listed, obsolete, session = {}, {}, 0, keys.name(wanted.session)
  for _, owed in ipairs(wanted.targets) do
    local key = wanted.tenant .. ':' .. wanted.session .. ':' .. wanted.utterance .. ':translation:'
      .. owed.target .. ':' .. wanted.features_hash
    local open = deliver.is_open(session, owed.target, owed.delivery_no)
    if open and not listed[key] and redis.call('EXISTS', keys.of('job', key)) == 0 then
      listed[key] = true
      list[#list + 1] = jobs.create(key, wanted, owed.target, owed.delivery_no)
    else
      obsolete = obsolete + 1
    end
  end
  return list, obsolete
end

local function take(id, kind, d)
  if kind == 'fill' then
    local node = nodes.get(d)
    if node then assign.fill(node, 'work/' .. id) end
    return 0
  end
  local wanted = work.read(d)
  local list, obsolete = jobs_of(wanted)
  if obsolete > 0 then write('HINCRBY', keys.cell, 'obsolete', obsolete) end
  for _, job in ipairs(list) do assign.place(job, 'log/' .. wanted.log) end
  return #list
end

-- What cannot be processed is parked with its reason; `partial` when it had begun to write.
local function park(id, kind, d, reason)
  redis.call('XADD', keys.dead, clock.entry_id(), 'from', 'work', 'id', id,
    'k', kind or '', 'd', d or '', 'reason', text.reason(reason),
    'partial', wrote and '1' or '0')
end

clock.now()
local entries = read('0')
if #entries == 0 then entries = read('>') end
local given, last_id, ids = 0, '0-0', {}
for i, entry in ipairs(entries) do
  local id, kind, d = entry[1], fields_of(entry)
  wrote = false
  local ok, result = pcall(take, id, kind, d)
  if ok then given = given + result else park(id, kind, d, result) end
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
return { last_id, left, given }
