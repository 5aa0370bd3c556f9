#!lua flags=allow-oom
-- dispatch_work: read the next entries of `work` and give each job to a node, or queue it (10-18).
-- Reading, deciding, writing and trimming are one step, whoever calls this may die anywhere: what
-- is in `work` is what nobody has taken. The group that goes with it says how far that is.
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
-- Bound: 12 entries of at most 32 targets; 64 demands, 8 fills and the session's open outcomes each
local group, entries_max = 'dispatch', '12'
-- include: assign
-- include: call
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

local function take(id, kind, d)
  if kind == 'fill' then
    local node = nodes.get(d)
    if node then assign.fill(node, 'dispatch/' .. id) end
    return 0, 0
  end
  return utterance_jobs.place(dispatch_entry.decode(d))
end

local back_ms = validate.int(back_arg, 0, 60000)
if not back_ms then return validate.invalid('back_ms', '0 to 60000 ms') end
clock.now()
local entries = redis.call('XRANGE', keys.dispatch, '-', '+', 'COUNT', entries_max)
local last_id = entries[1] and entries[#entries][1] or '0-0'
-- Without its group a cell is none: that fails before anything is written.
if entries[1] then write('XGROUP', 'SETID', keys.dispatch, group, last_id) end
if back_ms > 0 then eager_dispatch.renew_lease(clock.now() + back_ms) end
local placed, waiting, left = 0, 0, 0
for _, entry in ipairs(entries) do
  local id, kind, d = entry[1], entry[2][2], entry[2][4]
  call.has_written = false
  local ok, result, found_none = pcall(take, id, kind, d)
  if ok then
    placed, waiting = placed + result, waiting + found_none
  else
    dead_letters.add('dispatch', id, kind, d or '', result)
  end
end
if entries[1] then
  write('XTRIM', keys.dispatch, 'MINID', entry_ids.successor(last_id))
  left = redis.call('XLEN', keys.dispatch)
end
return { last_id, left, placed, waiting }
