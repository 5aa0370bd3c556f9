#!lua flags=allow-oom
-- dispatch_jobs: read the next entries of the dispatch queue and give each job to a node, or queue
-- the job (rules 10, job identity; 11, one atomic dispatch; 16, choosing a node; 18, fair waiting).
-- Reading, deciding, writing and trimming are one step, so the caller may die at any time: an entry
-- stays in the dispatch queue until it is dispatched. The consumer group only shows the position.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   lease_arg       0 to 60000 ms          how long the presence lease of the dispatcher lasts;
--                                          until then finalizing calls dispatch eagerly
-- Reply: [last_id, left, jobs, waiting]   last_id: of the last entry read; left: entries not read
--   yet; waiting: jobs whose nodes have no free slot
-- Refusals: INVALID_MESSAGE
-- Events: JobDispatched, JobQueued
-- Bound: 12 entries of at most 32 targets; 64 requirements, 8 fills and the session's open outcomes
--   each
-- include: assign
-- include: clock
-- include: dead_letters
-- include: dispatch_entry
-- include: eager_dispatch
-- include: entry_ids
-- include: keys
-- include: nodes
-- include: utterance_jobs
-- include: validate
-- include: write
local group, entries_max = 'dispatch', '12'

-- Returns how many jobs the entry had, and how many of them wait for a slot.
local function process(id, kind, d)
  if kind == 'fill' then
    local node = nodes.get(d)
    if node then assign.fill(node, 'dispatch/' .. id) end
    return 0, 0
  end
  return utterance_jobs.place(dispatch_entry.decode(d))
end

local lease_ms = validate.int(lease_arg, 0, 60000)
if not lease_ms then return validate.invalid('lease_ms', '0 to 60000 ms') end
clock.now()
local entries = redis.call('XRANGE', keys.dispatch, '-', '+', 'COUNT', entries_max)
local last_id = entries[1] and entries[#entries][1] or '0-0'
if entries[1] then write('XGROUP', 'SETID', keys.dispatch, group, last_id) end
if lease_ms > 0 then eager_dispatch.renew_lease(clock.now() + lease_ms) end
local job_count, waiting, left = 0, 0, 0
for _, entry in ipairs(entries) do
  local id, kind, d = entry[1], entry[2][2], entry[2][4]
  local is_done, count, count_waiting =
    dead_letters.guard('dispatch', id, kind, d or '', process, id, kind, d)
  if is_done then job_count, waiting = job_count + count, waiting + count_waiting end
end
if entries[1] then
  write('XTRIM', keys.dispatch, 'MINID', entry_ids.successor(last_id))
  left = redis.call('XLEN', keys.dispatch)
end
return { last_id, left, job_count, waiting }
