-- eager_dispatch: a call that finalizes an utterance assigns its jobs itself if the dispatch queue
-- is empty, so that no job is overtaken, and a dispatcher has renewed its presence lease. This
-- saves one round trip. A call assigns at most `jobs_max` jobs this way. The setting
-- `eager_dispatch` = 0 switches it off.
-- include: cache
-- include: call
-- include: clock
-- include: dead_letters
-- include: dispatch_entry
-- include: keys
-- include: numbers
-- include: settings
-- include: utterance_jobs
-- include: write
local eager_dispatch = { jobs_left = nil }
local jobs_max = 8

call.on_begin(function() eager_dispatch.jobs_left = nil end)

-- When the presence lease of the dispatcher ends, in ms.
local lease = cache.register_single('dispatcher_lease', 'live', function()
  return tonumber(redis.call('HGET', keys.counters, 'dispatcher')) or 0
end)

function eager_dispatch.renew_lease(until_ms)
  write('HSET', keys.counters, 'dispatcher', numbers.text[until_ms])
  lease.put(until_ms)
end

-- Whether this call may assign this many jobs.
local function is_allowed(count)
  if not eager_dispatch.jobs_left then
    local is_there = settings.eager_dispatch ~= 0 and lease.read_through() > clock.now()
    eager_dispatch.jobs_left = is_there and jobs_max or 0
  end
  if eager_dispatch.jobs_left < count or redis.call('XLEN', keys.dispatch) > 0 then return false end
  eager_dispatch.jobs_left = eager_dispatch.jobs_left - count
  return true
end

-- Assign or queue the jobs of a finalized utterance, or add the utterance to the dispatch queue. An
-- error becomes a dead letter, as in dispatch_jobs: the finalize itself succeeds. `entry` has the
-- form that `dispatch_entry.decode` returns.
function eager_dispatch.dispatch(entry)
  if not is_allowed(#entry.targets) then
    dispatch_entry.append(entry)
    return
  end
  call.has_written = false
  local is_done, failure = pcall(utterance_jobs.place, entry)
  if not is_done then
    dead_letters.add('dispatch', entry.log, 'utterance', dispatch_entry.encode(entry), failure)
  end
  call.has_written = true
end
return eager_dispatch
