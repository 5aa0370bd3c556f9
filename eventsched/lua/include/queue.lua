-- queue: jobs that wait. Order: priority, then start-time fair queuing between tenants with
-- integer tags, then age (rule 18). One sorted set per (priority, demand).
-- What a call has read it knows from then on; counters that it has moved are written when it commits.
-- include: cache
-- include: call
-- include: classes
-- include: clock
-- include: events
-- include: jobs
-- include: keys
-- include: numbers
-- include: settings
-- include: timers
-- include: write
local queue = {}
call.on_begin(function()
  queue.lines, queue.finish, queue.backlog = {}, {}, {}
  queue.virtual, queue.entry, queue.counted = nil, nil, nil
end)
local fronts_max, fronts_last = 16, '15'

function queue.demand_of(job)
  return job.source .. ':' .. job.target .. ':' .. job.features
end

function queue.has_waiting(demand)
  local known = cache.of_cell().waits
  local waits = known[demand]
  if waits == nil then
    waits = redis.call('SISMEMBER', keys.requirements, demand) == 1
    cache.put(known, demand, waits)
  end
  return waits
end

-- How many jobs of this tenant wait.
function queue.tenant_count(tenant)
  local known = cache.of_cell().backlog
  if not known[tenant] then
    cache.put(known, tenant, tonumber(redis.call('HGET', keys.tenant_queued, tenant)) or 0)
  end
  return known[tenant] + (queue.backlog[tenant] or 0)
end

-- A (priority, demand): its key, and its first ones once they are asked for.
local function line_of(priority, demand)
  local lines = queue.lines[demand]
  if not lines then
    lines = {}
    queue.lines[demand] = lines
  end
  local line = lines[priority]
  if not line then
    line = { key = keys.of('waiting', numbers.text[priority], demand) }
    lines[priority] = line
  end
  return line
end

-- Its first ones as [member, tag, …], from place `line.at` on.
local function front_of(line)
  local front = line.front
  if not front or line.at > #front and #front == 2 * fronts_max then
    front = redis.call('ZRANGE', line.key, '0', fronts_last, 'WITHSCORES')
    line.at, line.front = 1, front
  end
  return front
end

local function enter_line(priority, demand, tag, member)
  local line = line_of(priority, demand)
  write('ZADD', line.key, tag, member)
  line.front = nil
end

local function leave_line(priority, demand, member)
  local line = line_of(priority, demand)
  write('ZREM', line.key, member)
  if line.front and line.front[line.at] == member then
    line.at = line.at + 2
  else
    line.front = nil
  end
end

-- The next job of a demand, or nil: { priority, tag, tag_told (as text), member, demand }.
function queue.head(demand)
  for priority = 0, 2 do
    local line = line_of(priority, demand)
    local front = front_of(line)
    local member, tag = front[line.at], front[line.at + 1]
    if member then
      return { priority = priority, tag = tonumber(tag), tag_told = tag, member = member,
        demand = demand }
    end
  end
  return nil
end

-- Smaller goes first: priority, tag, then the entry count that opens the member.
function queue.precedes(a, b)
  if a.priority ~= b.priority then return a.priority < b.priority end
  if a.tag ~= b.tag then return a.tag < b.tag end
  return a.member < b.member
end

local function count()
  if not queue.virtual then
    local kept = redis.call('HMGET', keys.counters, 'virtual', 'entry')
    queue.virtual, queue.entry = tonumber(kept[1]) or 0, tonumber(kept[2]) or 0
  end
end

-- On its first entry a job pays for its audio; dispatched again, it keeps its tag and place.
local function enter(job)
  if job.member then return end
  count()
  local due = queue.finish[job.tenant] or tonumber(redis.call('ZSCORE', keys.tenant_finish_tag, job.tenant)) or 0
  job.tag = math.max(queue.virtual, due)
  queue.finish[job.tenant] = job.tag + math.max(job.ms, 1)
  queue.entry, queue.counted = queue.entry + 1, true
  job.member = string.format('%016d:', queue.entry) .. job.key
end

-- Two different reasons to wait (rule 15).
function queue.reason(declared)
  return declared and 'NO_AVAILABLE_NODE' or 'NO_POOL_FOR_LANG_PAIR'
end

function queue.add(job, reason, cause)
  local now, demand = clock.now(), queue.demand_of(job)
  enter(job)
  local tag = numbers.text[job.tag]
  local deadline = numbers.text[now + settings.queue_timeout_ms]
  enter_line(job.priority, demand, tag, job.member)
  queue.backlog[job.tenant] = (queue.backlog[job.tenant] or 0) + 1
  if not queue.has_waiting(demand) then
    write('SADD', keys.requirements, demand)
    cache.put(cache.of_cell().waits, demand, true)
    for _, class in ipairs((classes.matching(job.source, job.target, job.features))) do
      classes.rotate(class.id, demand)
    end
  end
  jobs.set_queued(job, tag, deadline)
  timers.set(deadline, 'wait', job.key)
  if job.priority > 0 then
    timers.set(now + math.floor(settings.queue_timeout_ms / 2), 'age', job.key)
  end
  events.JobQueued(job, reason, cause, tag, deadline)
end

-- It has waited for long: it goes on waiting among the first (rule 18).
function queue.promote(job)
  local demand = queue.demand_of(job)
  leave_line(job.priority, demand, job.member)
  job.priority = 0
  local tag = numbers.text[job.tag]
  enter_line(0, demand, tag, job.member)
  jobs.set_queued(job, tag, job.deadline)
  events.JobQueued(job, 'aged', '', tag, job.deadline)
end

function queue.remove(job)
  local demand = queue.demand_of(job)
  leave_line(job.priority, demand, job.member)
  queue.backlog[job.tenant] = (queue.backlog[job.tenant] or 0) - 1
  timers.cancel_both('wait', 'age', job.key)
  if not queue.head(demand) then
    write('SREM', keys.requirements, demand)
    cache.put(cache.of_cell().waits, demand, false)
    for _, class in ipairs((classes.matching(job.source, job.target, job.features))) do
      classes.unwatch(class.id, demand)
    end
  end
end

-- A job leaves the queue for a slot: virtual time moves up to its tag.
function queue.take(job)
  queue.remove(job)
  count()
  if job.tag > queue.virtual then queue.virtual, queue.counted = job.tag, true end
end

-- The counters as they are now: entries, virtual time, what tenants owe, how many of theirs wait.
-- Bound: the tenants of this call.
call.on_commit(function()
  for tenant, change in pairs(queue.backlog) do
    if change ~= 0 then
      local waiting = math.max(write('HINCRBY', keys.tenant_queued, tenant, change), 0)
      if waiting == 0 then write('HDEL', keys.tenant_queued, tenant) end
      cache.put(cache.of_cell().backlog, tenant, waiting)
    end
  end
  if not queue.counted then return end
  local virtual = string.format('%d', queue.virtual)
  write('HSET', keys.counters, 'virtual', virtual, 'entry', string.format('%d', queue.entry))
  for tenant, finish in pairs(queue.finish) do
    write('ZADD', keys.tenant_finish_tag, string.format('%d', finish), tenant)
  end
  write('ZREMRANGEBYSCORE', keys.tenant_finish_tag, '-inf', virtual)
end)
return queue
