#!lua flags=allow-oom
-- dispatch_jobs: read the next entries of the dispatch queue and give each job to a node, or queue
-- the job (rules 10, job identity; 11, one atomic dispatch; 16, choosing a node; 18, fair waiting).
-- Reading, deciding, writing and trimming are one step, so the caller may die at any time: an entry
-- stays in the dispatch queue until it is dispatched. The caller reads as a consumer of the group
-- `dispatch`, without acknowledgement: trimming acknowledges.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   lease_arg       0 to 60000 ms          how long the presence lease of the dispatcher lasts;
--                                          until then finalizing calls dispatch eagerly
--   consumer        name                   of the process; a consumer that has not called for an
--                                          hour is removed
-- Reply: [last_id, left, jobs, waiting]   last_id: of the last entry read; left: entries not read
--   yet; waiting: jobs whose nodes have no free slot
-- Refusals: INVALID_MESSAGE
-- Events: JobDispatched, JobQueued
-- Bound: 12 entries of at most 32 targets, none after 16 jobs or fills; 8 fills
--   and 256 heads that avoid a node each; the groups and the consumers of the queue, if it is empty
-- include: assign
-- include: clock
-- include: dead_letters
-- include: dispatch_entry
-- include: eager_dispatch
-- include: entry_ids
-- include: groups
-- include: keys
-- include: nodes
-- include: queue
-- include: strings
-- include: utterance_jobs
-- include: validate
-- include: write
local group, entries_max, jobs_max, idle_ms_max = 'dispatch', '12', 16, 3600000

-- Returns how many jobs the entry had, how many of them wait for a slot, and how many were filled.
local function process(id, kind, d)
  if kind == 'fill' then
    local name, from = dispatch_entry.decode_fill(d)
    local node = nodes.get(name)
    return 0, 0, node and assign.fill(node, 'dispatch/' .. id, from) or 0
  end
  local entry = dispatch_entry.decode(d)
  queue.count_undispatched(entry.tenant, -#entry.targets)
  return utterance_jobs.place(entry)
end

-- Another program may have destroyed the group: it is created again, and reads the whole queue.
local function read(name)
  local is_done, streams = pcall(write, 'XREADGROUP', 'GROUP', group, name, 'COUNT', entries_max,
    'NOACK', 'STREAMS', keys.dispatch, '>')
  if is_done then return streams and streams[1][2] or {} end
  local is_lost = string.find(strings.error_text(streams), 'NOGROUP', 1, true)
  if not is_lost or not groups.create(keys.dispatch, group, '0') then error(streams, 0) end
  return read(name)
end

-- Whether the queue has entries before these, which another reader of the group has taken.
local function has_earlier(entries)
  if not entries[1] then return redis.call('XLEN', keys.dispatch) > 0 end
  local earlier = redis.call('XRANGE', keys.dispatch, '-', '(' .. entries[1][1], 'COUNT', 1)
  return earlier[1] ~= nil
end

-- In each call:
local lease_ms = validate.int(lease_arg, 0, 60000)
if not lease_ms then return validate.invalid('lease_ms', '0 to 60000 ms') end
if not validate.is_name(consumer) then return validate.invalid('consumer', 'a name') end
clock.now()
-- No call has finished what is in the queue. The job key makes a repeated entry harmless.
local entries = read(consumer)
if has_earlier(entries) then
  write('XGROUP', 'SETID', keys.dispatch, group, '0-0')
  entries = read(consumer)
end
local read_id = entries[1] and entries[#entries][1]
if lease_ms > 0 then eager_dispatch.renew_lease(clock.now() + lease_ms) end
local last_id, job_count, waiting, filled, left = '0-0', 0, 0, 0, 0
for _, entry in ipairs(entries) do
  if job_count + filled >= jobs_max then break end
  local id, kind, d = entry[1], entry[2][2], entry[2][4]
  last_id = id
  local is_done, count, count_waiting, count_filled =
    dead_letters.guard('dispatch', process, id, kind, d)
  if is_done then
    job_count, waiting, filled = job_count + count, waiting + count_waiting,
      filled + (count_filled or 0)
  end
end
if read_id then
  -- The queue begins after `last_id`, so the server knows the lag without a number of entries.
  if last_id ~= read_id then write('XGROUP', 'SETID', keys.dispatch, group, last_id) end
  write('XTRIM', keys.dispatch, 'MINID', entry_ids.successor(last_id))
  left = redis.call('XLEN', keys.dispatch)
  if left == 0 then queue.clear_undispatched() end
else
  groups.restore_to_end(keys.dispatch, group)
  groups.remove_idle(keys.dispatch, group, consumer, idle_ms_max)
end
return { last_id, left, job_count, waiting }
