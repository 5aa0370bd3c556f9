-- queue: jobs that wait for a slot. Order: priority, then start-time fair queuing between tenants
-- with integer tags, then age (rule 18). There is one sorted set, a line, for each (priority,
-- requirement). Counters that the call has changed are written at commit.
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
local queue = { lines = {}, finish = {}, changes = {}, virtual = nil, entry = nil, has_counted = nil }
local first_max, first_last = 16, '15'
local as_text = numbers.text

call.on_begin(function()
  queue.lines, queue.finish, queue.changes = {}, {}, {}
  queue.virtual, queue.entry, queue.has_counted = nil, nil, nil
end)

-- Whether a job with a requirement waits; how many jobs of a tenant wait.
local waiting_requirements = cache.register('waiting_requirements', 'live', function(requirement)
  return redis.call('SISMEMBER', keys.requirements, requirement) == 1
end)
local tenant_counts = cache.register('tenant_counts', 'live', function(tenant)
  return tonumber(redis.call('HGET', keys.tenant_queued, tenant)) or 0
end)

function queue.requirement_of(job)
  return job.source .. ':' .. job.target .. ':' .. job.features
end

function queue.has_waiting(requirement)
  return waiting_requirements.read_through(requirement)
end

function queue.tenant_count(tenant)
  return tenant_counts.read_through(tenant) + (queue.changes[tenant] or 0)
end

-- A line: its key, and its first jobs once they have been read.
local function line_of(priority, requirement)
  local lines = queue.lines[requirement]
  if not lines then
    lines = {}
    queue.lines[requirement] = lines
  end
  local line = lines[priority]
  if not line then
    line = { key = keys.of('waiting', as_text[priority], requirement), first = nil, at = nil }
    lines[priority] = line
  end
  return line
end

-- The first jobs of a line as [member, tag, …], from the place `line.at` on.
local function first_of(line)
  local first = line.first
  if not first or line.at > #first and #first == 2 * first_max then
    first = redis.call('ZRANGE', line.key, '0', first_last, 'WITHSCORES')
    line.at, line.first = 1, first
  end
  return first
end

local function enter_line(priority, requirement, tag, member)
  local line = line_of(priority, requirement)
  write('ZADD', line.key, tag, member)
  line.first = nil
end

local function leave_line(priority, requirement, member)
  local line = line_of(priority, requirement)
  write('ZREM', line.key, member)
  if line.first and line.first[line.at] == member then
    line.at = line.at + 2
  else
    line.first = nil
  end
end

-- The next job of a requirement, or nil: { priority, tag, tag_text, member, requirement }.
function queue.head(requirement)
  for priority = 0, 2 do
    local line = line_of(priority, requirement)
    local first = first_of(line)
    local member, tag = first[line.at], first[line.at + 1]
    if member then
      return { priority = priority, tag = tonumber(tag), tag_text = tag, member = member,
        requirement = requirement }
    end
  end
  return nil
end

-- Order of waiting jobs: priority, tag, then the entry count with which a member begins.
function queue.precedes(a, b)
  if a.priority ~= b.priority then return a.priority < b.priority end
  if a.tag ~= b.tag then return a.tag < b.tag end
  return a.member < b.member
end

local function read_counters()
  if not queue.virtual then
    local stored = redis.call('HMGET', keys.counters, 'virtual', 'entry')
    queue.virtual, queue.entry = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
  end
end

-- A job gets its tag and its place when it waits for the first time, and keeps both when it waits
-- again. The tenant pays for the job's audio.
local function enter(job)
  if job.member then return end
  read_counters()
  local finish = queue.finish[job.tenant] or tonumber(redis.call('ZSCORE', keys.tenant_finish_tag, job.tenant)) or 0
  job.tag = math.max(queue.virtual, finish)
  queue.finish[job.tenant] = job.tag + math.max(job.ms, 1)
  queue.entry, queue.has_counted = queue.entry + 1, true
  job.member = string.format('%016d:', queue.entry) .. job.key
end

-- Why a job waits: all its nodes are busy, or no node is declared for it (rule 15).
function queue.reason(is_declared)
  return is_declared and 'NO_AVAILABLE_NODE' or 'NO_POOL_FOR_LANG_PAIR'
end

-- The job waits. Classes that can take it watch its requirement.
function queue.add(job, reason, cause)
  local now, requirement = clock.now(), queue.requirement_of(job)
  enter(job)
  local tag = as_text[job.tag]
  local deadline = as_text[now + settings.queue_timeout_ms]
  enter_line(job.priority, requirement, tag, job.member)
  queue.changes[job.tenant] = (queue.changes[job.tenant] or 0) + 1
  if not queue.has_waiting(requirement) then
    write('SADD', keys.requirements, requirement)
    waiting_requirements.put(requirement, true)
    for _, class in ipairs((classes.matching(job.source, job.target, job.features))) do
      classes.rotate(class.id, requirement)
    end
  end
  jobs.set_queued(job, tag, deadline)
  timers.set(deadline, 'wait', job.key)
  if job.priority > 0 then
    timers.set(now + math.floor(settings.queue_timeout_ms / 2), 'age', job.key)
  end
  events.JobQueued(job, reason, cause, tag, deadline)
end

-- The job has waited for half of its time: from now on it waits with the highest priority (rule
-- 18).
function queue.promote(job)
  local requirement = queue.requirement_of(job)
  leave_line(job.priority, requirement, job.member)
  job.priority = 0
  local tag = as_text[job.tag]
  enter_line(0, requirement, tag, job.member)
  jobs.set_queued(job, tag, job.deadline)
  events.JobPromoted(job)
end

function queue.remove(job)
  local requirement = queue.requirement_of(job)
  leave_line(job.priority, requirement, job.member)
  queue.changes[job.tenant] = (queue.changes[job.tenant] or 0) - 1
  timers.cancel_both('wait', 'age', job.key)
  if not queue.head(requirement) then
    write('SREM', keys.requirements, requirement)
    waiting_requirements.put(requirement, false)
    for _, class in ipairs((classes.matching(job.source, job.target, job.features))) do
      classes.unwatch(class.id, requirement)
    end
  end
end

-- The job leaves the queue for a slot: virtual time moves up to its tag.
function queue.take(job)
  queue.remove(job)
  read_counters()
  if job.tag > queue.virtual then queue.virtual, queue.has_counted = job.tag, true end
end

-- Write the counters: waiting jobs of each tenant, entries, virtual time, what tenants have to pay.
-- Bound: the tenants of this call.
call.on_commit(function()
  for tenant, change in pairs(queue.changes) do
    if change ~= 0 then
      local waiting = math.max(write('HINCRBY', keys.tenant_queued, tenant, change), 0)
      if waiting == 0 then write('HDEL', keys.tenant_queued, tenant) end
      tenant_counts.put(tenant, waiting)
    end
  end
  if not queue.has_counted then return end
  local virtual = string.format('%d', queue.virtual)
  write('HSET', keys.counters, 'virtual', virtual, 'entry', string.format('%d', queue.entry))
  for tenant, finish in pairs(queue.finish) do
    write('ZADD', keys.tenant_finish_tag, string.format('%d', finish), tenant)
  end
  write('ZREMRANGEBYSCORE', keys.tenant_finish_tag, '-inf', virtual)
end)
return queue
