-- eager_dispatch: a call that finalizes an utterance assigns its jobs itself if the dispatch queue is empty,
-- so that no job is overtaken, and a dispatcher has renewed its presence lease. This saves one round trip.
-- include: affinity
-- include: cache
-- include: call
-- include: clock
-- include: dead_letters
-- include: dispatch_entry
-- include: keys
-- include: numbers
-- include: utterance_jobs
-- include: write
local eager_dispatch = {}
local jobs_max = 8

local function read_lease()
  return tonumber(redis.call('HGET', keys.counters, 'dispatcher')) or 0
end

function eager_dispatch.renew_lease(until_ms)
  write('HSET', keys.counters, 'dispatcher', numbers.text[until_ms])
  cache.of_cell().dispatcher = until_ms
end

-- How many jobs this call may still assign. Without a dispatcher none: jobs wait until one is there.
call.on_begin(function() eager_dispatch.jobs_left = nil end)

local function is_allowed(count)
  if not eager_dispatch.jobs_left then
    local until_ms = cache.once('dispatcher', read_lease)
    eager_dispatch.jobs_left = until_ms > clock.now() and jobs_max or 0
  end
  if eager_dispatch.jobs_left < count or redis.call('XLEN', keys.dispatch) > 0 then return false end
  eager_dispatch.jobs_left = eager_dispatch.jobs_left - count
  return true
end

-- The jobs of a finalized utterance of `s` are assigned or queued, or the utterance waits in the
-- dispatch queue. An error becomes a dead letter, as in dispatch_work: the finalize succeeds.
function eager_dispatch.dispatch(s, wanted)
  if not is_allowed(#wanted.targets) then
    dispatch_entry.append(wanted)
    return
  end
  call.has_written = false
  affinity.defer_write(s.name)
  local is_done, failure = pcall(utterance_jobs.place, wanted)
  if not is_done then
    dead_letters.add('dispatch', wanted.log, 'utterance', dispatch_entry.encode(wanted), failure)
  end
  call.has_written = true
end
return eager_dispatch
