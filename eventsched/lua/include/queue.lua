-- queue: jobs that wait. Order: priority, then start-time fair queuing between tenants with
-- integer tags, then age (rule 18). One sorted set per (priority, demand).
-- include: keys
-- include: write
-- include: clock
-- include: timers
-- include: settings
-- include: classes
local queue = { waits = {} }

function queue.demand(job)
  return job.source .. ':' .. job.target .. ':' .. job.services
end

function queue.has(demand)
  local waits = queue.waits[demand]
  if waits == nil then
    waits = redis.call('SISMEMBER', keys.demands, demand) == 1
    queue.waits[demand] = waits
  end
  return waits
end

-- The next job of a demand, or nil: { priority, tag, member, demand }.
function queue.head(demand)
  for priority = 0, 2 do
    local first = redis.call('ZRANGE', keys.of('waiting', priority, demand), 0, 0, 'WITHSCORES')
    if first[1] then
      return { priority = priority, tag = tonumber(first[2]), member = first[1], demand = demand }
    end
  end
  return nil
end

-- Smaller goes first: priority, tag, then the entry count that opens the member.
function queue.before(a, b)
  if a.priority ~= b.priority then return a.priority < b.priority end
  if a.tag ~= b.tag then return a.tag < b.tag end
  return a.member < b.member
end

-- On its first entry a job pays for its audio; dispatched again, it keeps its tag and place.
local function enter(job)
  if job.member then return end
  local virtual = tonumber(redis.call('HGET', keys.cell, 'virtual')) or 0
  local due = tonumber(redis.call('ZSCORE', keys.fair, job.tenant)) or 0
  job.tag = math.max(virtual, due)
  write('ZADD', keys.fair, string.format('%d', job.tag + math.max(job.ms, 1)), job.tenant)
  job.member = string.format('%016d:', write('HINCRBY', keys.cell, 'entry', 1)) .. job.key
end

-- Two different reasons to wait (rule 15).
function queue.reason(declared)
  return declared and 'NO_AVAILABLE_NODE' or 'NO_POOL_FOR_LANG_PAIR'
end

function queue.say(job, reason, cause)
  emit({ t = 'JobQueued', s = job.session, j = job.key, c = cause, tp = job.tp, d = {
    utterance = job.utterance, target = job.target, delivery_no = job.delivery_no,
    source = job.source, services = some(text.list(job.services)), attempt = job.attempt,
    reason = reason, priority = job.priority, tag = job.tag, member = job.member,
    deadline_ms = job.deadline_ms,
  } })
end

function queue.add(job, reason, cause)
  local now, demand = clock.now(), queue.demand(job)
  enter(job)
  job.deadline_ms = now + settings.waiting_ms
  write('ZADD', keys.of('waiting', job.priority, demand), string.format('%d', job.tag), job.member)
  write('HINCRBY', keys.backlog, job.tenant, 1)
  if not queue.has(demand) then
    write('SADD', keys.demands, demand)
    queue.waits[demand] = true
    for _, class in ipairs((classes.serving(job.source, job.target, text.list(job.services)))) do
      classes.look_last(class.id, demand)
    end
  end
  write('HSET', keys.of('job', job.key), 'status', 'queued', 'attempt', job.attempt, 'core', job.core,
    'priority', job.priority, 'tag', string.format('%d', job.tag), 'member', job.member,
    'deadline', string.format('%d', job.deadline_ms))
  timers.set(job.deadline_ms, 'wait', job.key)
  if job.priority > 0 then
    timers.set(now + math.floor(settings.waiting_ms / 2), 'age', job.key)
  end
  queue.say(job, reason, cause)
end

function queue.remove(job)
  local demand = queue.demand(job)
  write('ZREM', keys.of('waiting', job.priority, demand), job.member)
  if write('HINCRBY', keys.backlog, job.tenant, -1) <= 0 then
    write('HDEL', keys.backlog, job.tenant)
  end
  timers.drop('wait|' .. job.key, 'age|' .. job.key)
  if not queue.head(demand) then
    write('SREM', keys.demands, demand)
    queue.waits[demand] = false
    for _, class in ipairs((classes.serving(job.source, job.target, text.list(job.services)))) do
      write('ZREM', keys.of('demands', class.id), demand)
    end
  end
end

-- A job leaves the queue for a slot: virtual time moves up to its tag.
function queue.serve(job)
  queue.remove(job)
  local virtual = tonumber(redis.call('HGET', keys.cell, 'virtual')) or 0
  if job.tag > virtual then
    write('HSET', keys.cell, 'virtual', string.format('%d', job.tag))
    write('ZREMRANGEBYSCORE', keys.fair, '-inf', string.format('%d', job.tag))
  end
end
