-- queue: jobs that wait for a slot. Order: priority, then start-time fair queuing between tenants
-- with integer tags, then age (rule 18, fair waiting). There is one sorted set for each (priority,
-- requirement). Counters that the call has changed are written at commit.
--
-- Virtual time. The counter `virtual` is the highest tag of a job that has left the queue for a
-- slot. A new job starts at the lowest tag that waits, if that is lower: nodes of other languages,
-- or jobs of other priorities, may have moved the counter past everything that waits here.
--
-- Heads. The head of a requirement is its next job. Its place is the text
-- `<priority>:<tag, 16 digits>:<entry, 16 digits>`, so places sort like the jobs. The hash
-- `requirements` has the place of each head, and each class that serves the requirement has
-- `<place>:<requirement>` in a sorted set. So the best job of all requirements of a class is found
-- without reading the others: the work of a fill does not depend on how many requirements wait.
--
-- Avoided nodes. A job that avoids the node of its last attempt (rule 20, dispatching again) waits
-- in a queue of its own, `<requirement>|<node>`, which has its own sorted sets and its own head.
-- The other nodes compare this head with those of the requirements; the avoided node passes over
-- it. A call passes over a bounded number of heads. If there are more, a `fill` entry in the
-- dispatch queue names the head after which the next call goes on, so the jobs behind any number of
-- heads are found in a number of calls that grows with the number of heads.
-- include: cache
-- include: call
-- include: classes
-- include: clock
-- include: events
-- include: jobs
-- include: keys
-- include: numbers
-- include: reply
-- include: settings
-- include: strings
-- include: timers
-- include: write
local queue = { sets = {}, finish = {}, changes = {}, virtual = nil, entry = nil,
  has_new_counters = nil, undispatched = nil }
local first_max, first_last = 16, '15'
local as_text = numbers.text
local place_length, corrected_max, charge_min_ms = 35, 8, 1000

local function reset()
  queue.sets, queue.finish, queue.changes = {}, {}, {}
  queue.virtual, queue.entry, queue.has_new_counters, queue.undispatched = nil, nil, nil, nil
end

call.on_reset(reset)

-- The place of the head of a requirement, false if no job waits; how many jobs of a tenant wait or
-- back off.
local places = cache.register('places', 'live', function(requirement)
  return redis.call('HGET', keys.requirements, requirement)
end)
local tenant_counts = cache.register('tenant_counts', 'live', function(tenant)
  return tonumber(redis.call('HGET', keys.tenant_queued, tenant)) or 0
end)

function queue.requirement_of(job)
  return job.source .. ':' .. job.target .. ':' .. job.features
end

-- The name of the queue in which the job waits.
function queue.name_of(job)
  local requirement = queue.requirement_of(job)
  return job.avoid_until and requirement .. '|' .. job.node or requirement
end

function queue.has_waiting(requirement)
  return places.read_through(requirement) ~= false
end

-- The outcomes of the utterances in the dispatch queue, by tenant.
local undispatched = cache.register_single('undispatched', 'live', function()
  local counts = reply.by_name(redis.call('HGETALL', keys.tenant_undispatched))
  for tenant, count in pairs(counts) do counts[tenant] = tonumber(count) end
  return counts
end)

-- The jobs of the tenant that wait. Outcomes in the dispatch queue count at once, so that no
-- producer outruns the dispatcher, and jobs that back off count until they run or end.
function queue.tenant_count(tenant)
  local count = tenant_counts.read_through(tenant) + (queue.changes[tenant] or 0)
    + (undispatched.read_through()[tenant] or 0)
  local changes = queue.undispatched
  return changes and count + (changes[tenant] or 0) or count
end

-- So many more jobs of the tenant wait or back off.
function queue.count_waiting(tenant, change)
  queue.changes[tenant] = (queue.changes[tenant] or 0) + change
end

-- So many more outcomes of the tenant are in the dispatch queue.
function queue.count_undispatched(tenant, change)
  local changes = queue.undispatched or {}
  queue.undispatched, changes[tenant] = changes, (changes[tenant] or 0) + change
end

-- The dispatch queue is empty. This corrects counts of entries that were lost or added by hand.
function queue.clear_undispatched()
  queue.undispatched = nil
  if next(undispatched.read_through()) then
    write('DEL', keys.tenant_undispatched)
    undispatched.put({})
  end
end

-- A sorted set: its key, and its first jobs once they have been read.
local function set_of(priority, requirement)
  local sets = queue.sets[requirement]
  if not sets then
    sets = {}
    queue.sets[requirement] = sets
  end
  local set = sets[priority]
  if not set then
    set = { key = keys.of('waiting', as_text[priority], requirement), first = nil, at = nil }
    sets[priority] = set
  end
  return set
end

-- The first jobs of a sorted set as [member, tag, …], beginning at the index `set.at`.
local function heads_of(set)
  local first = set.first
  if not first or set.at > #first and #first == 2 * first_max then
    first = redis.call('ZRANGE', set.key, '0', first_last, 'WITHSCORES')
    set.at, set.first = 1, first
  end
  return first
end

local function add_to_set(priority, requirement, tag, member)
  local set = set_of(priority, requirement)
  write('ZADD', set.key, tag, member)
  set.first = nil
end

-- Returns whether the member was in the set.
local function remove_from_set(priority, requirement, member)
  local set = set_of(priority, requirement)
  local count = write('ZREM', set.key, member)
  if set.first and set.first[set.at] == member then
    set.at = set.at + 2
  else
    set.first = nil
  end
  return count == 1
end

-- The next job of a requirement at one priority, or nil: { priority, tag, tag_text, member,
-- requirement }.
local function head_at(priority, requirement)
  local set = set_of(priority, requirement)
  local first = heads_of(set)
  local member, tag = first[set.at], first[set.at + 1]
  return member and { priority = priority, tag = tonumber(tag), tag_text = tag, member = member,
    requirement = requirement }
end

-- The next job of a requirement, or nil.
function queue.head(requirement)
  return head_at(0, requirement) or head_at(1, requirement) or head_at(2, requirement)
end

-- The place of a job in the order of waiting jobs: priority, tag, then the entry count with which a
-- member begins.
function queue.place_of(job)
  return string.format('%d:%016d:', job.priority, job.tag) .. string.sub(job.member, 1, 16)
end

local function read_counters()
  if not queue.virtual then
    local stored = redis.call('HMGET', keys.counters, 'virtual', 'entry')
    queue.virtual, queue.entry = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
  end
end

-- The tag of a tenant without a finish tag.
local function start_tag()
  local lowest = redis.call('ZRANGE', keys.waiting_tags, '0', '0', 'WITHSCORES')[2]
  return lowest and math.min(queue.virtual, tonumber(lowest)) or queue.virtual
end

-- A job gets its tag and its member when it waits for the first time, and keeps both when it waits
-- again. The tenant is charged for the audio of the job, and for at least `charge_min_ms`: a job
-- takes a slot for a time of its own, however short the utterance is.
function queue.assign_place(job)
  if job.member then return end
  read_counters()
  local finish = queue.finish[job.tenant]
    or tonumber(redis.call('ZSCORE', keys.tenant_finish_tag, job.tenant)) or 0
  job.tag = math.max(start_tag(), finish)
  queue.finish[job.tenant] = job.tag + math.max(job.ms, charge_min_ms)
  queue.entry, queue.has_new_counters = queue.entry + 1, true
  job.member = string.format('%016d:', queue.entry) .. job.key
end

-- Why a job waits: all nodes that can serve it are busy, or no node declares it (rule 15, two
-- reasons to wait).
function queue.reason(is_declared)
  return is_declared and 'NO_AVAILABLE_NODE' or 'NO_POOL_FOR_LANG_PAIR'
end

-- Store the place of the head of a requirement, nil if no job waits. The hash is written last:
-- after a failed write the next change stores the place again. Bound: the classes that serve it.
local function set_head(requirement, place)
  local old = places.read_through(requirement)
  if (place or false) == old then return end
  local old_head = old and old .. ':' .. requirement
  local head = place and place .. ':' .. requirement
  local matching = classes.matching(requirement)
  for class in pairs(matching.has) do classes.set_head(class, old_head, head) end
  if place then
    write('HSET', keys.requirements, requirement, place)
  else
    write('HDEL', keys.requirements, requirement)
  end
  places.put(requirement, place or false)
end

-- The job has entered the queue of the requirement, or has moved forward in it.
local function raise_head(requirement, job)
  local old, place = places.read_through(requirement), queue.place_of(job)
  if not old or strings.precedes(place, old) then set_head(requirement, place) end
end

-- A job may have left the queue of the requirement.
function queue.update_head(requirement)
  local head = queue.head(requirement)
  set_head(requirement, head and queue.place_of(head))
end

-- For repairs: store the head of the requirement again, whatever is stored.
function queue.rebuild_head(requirement)
  places.evict(requirement)
  set_head(requirement, nil)
  queue.update_head(requirement)
end

-- For repairs: store the heads of all requirements again, and the waiting requirements of a class.
-- Bound: the waiting requirements of the cell.
function queue.rebuild_waiting(class)
  for _, requirement in ipairs(redis.call('HKEYS', keys.requirements)) do
    queue.rebuild_head(requirement)
  end
  classes.rebuild_waiting(class)
end

-- For `verify`, without the cache: what is wrong with the stored place of the head of a queue, of a
-- requirement and of `avoided`, the name of the avoided node or nil; nil for a right one. Bound:
-- the classes of the language pair.
function queue.head_fault(source, target, features, avoided)
  local requirement = source .. ':' .. target .. ':' .. features
  if avoided then requirement = requirement .. '|' .. avoided end
  local head, stored = queue.head(requirement), redis.call('HGET', keys.requirements, requirement)
  local place = head and queue.place_of(head) or false
  if stored ~= place then
    return 'the next job has the place ' .. tostring(place) .. ', stored is ' .. tostring(stored)
  end
  if not place then return nil end
  for _, class in ipairs(classes.stored_serving(source, target, features)) do
    if not redis.call('ZSCORE', keys.of('requirements', class), place .. ':' .. requirement) then
      return 'class ' .. class .. ' does not have the place ' .. place
    end
  end
  return nil
end

-- For `verify`, without the cache: an item of a class that names no head; nil if there is none.
-- Bound: the first 100 items.
function queue.wrong_item(class)
  for _, item in ipairs(redis.call('ZRANGE', keys.of('requirements', class), '0', '99')) do
    local requirement = string.sub(item, place_length + 2)
    local head = queue.head(requirement)
    if not head or string.sub(item, 1, place_length) ~= queue.place_of(head) then return item end
  end
  return nil
end

-- The head of an item of a class, `<place>:<requirement>`. If the item is wrong, because an earlier
-- call has failed, the item is corrected and the result is nil.
local function head_of_item(class, item)
  local place, requirement = string.sub(item, 1, place_length), string.sub(item, place_length + 2)
  local head = head_at(tonumber(string.sub(item, 1, 1)), requirement)
  if head and place == queue.place_of(head) and place == places.read_through(requirement) then
    return head
  end
  queue.update_head(requirement)
  head = queue.head(requirement)
  classes.set_head(class, item, head and queue.place_of(head) .. ':' .. requirement)
  return nil
end

-- The first two items of the class of the node that do not avoid the node, the number of all, and
-- the item after which the next call goes on if those that this call has read all avoid the node;
-- nil if they do not. `from` is such an item of an earlier call, or nil.
local function items_for(node, from)
  local items, count = classes.waiting(node.class)
  local suffix = '|' .. node.name
  local first, second, next_from = items[1], items[2], nil
  if first and string.sub(first, -#suffix) == suffix
    or second and string.sub(second, -#suffix) == suffix then
    items, next_from = classes.waiting_without(node.class, suffix, from)
  end
  return items, count, next_from
end

-- Whether jobs wait that the node can take, or may wait behind the heads that this call reads.
-- `from` as in `items_for`.
function queue.has_waiting_for(node, from)
  local items, _, next_from = items_for(node, from)
  return items[1] ~= nil or next_from ~= nil
end

-- The next two jobs of all queues that the class of the node serves and that do not avoid the node,
-- how many queues the class serves, and where the next call goes on; `from` and the last result as
-- in `items_for`. A call corrects at most 8 wrong items; then the jobs are nil.
function queue.first_heads(node, from)
  local items, count, next_from = items_for(node, from)
  for _ = 1, corrected_max do
    local best = items[1] and head_of_item(node.class, items[1])
    local second = best and items[2] and head_of_item(node.class, items[2])
    if (best or not items[1]) and (second or not items[2]) then
      return best, second, count, next_from
    end
    items, count, next_from = items_for(node, from)
  end
  return nil, nil, count, next_from
end

local function enqueue(job, requirement, reason, cause, tag, deadline)
  jobs.set_queued(job, deadline)
  write('ZADD', keys.waiting_tags, tag, job.member)
  add_to_set(job.priority, requirement, tag, job.member)
  queue.count_waiting(job.tenant, 1)
  raise_head(requirement, job)
  events.JobQueued(job, reason, cause, tag, deadline, job.avoid_until, nil)
end

local function undo_enqueue(job)
  queue.remove(job)
  jobs.restore(job)
  queue.cancel_timers(job)
end

-- Queue the job. The timers that end the wait are set first. If the call fails before the event,
-- the job is as before.
function queue.add(job, reason, cause)
  local now, requirement = clock.now(), queue.name_of(job)
  queue.assign_place(job)
  local tag = as_text[job.tag]
  local deadline = as_text[now + settings.queue_timeout_ms]
  timers.set(deadline, 'wait', job.key)
  if job.priority > 0 then
    timers.set(now + math.floor(settings.queue_timeout_ms / 2), 'age', job.key)
  end
  if job.avoid_until then timers.set(job.avoid_until, 'avoid', job.key) end
  call.or_else(undo_enqueue, enqueue, job, requirement, reason, cause, tag, deadline)
end

-- The job has waited for half of its time: it waits at the highest priority from now on (rule 18,
-- fair waiting).
function queue.promote(job)
  local requirement = queue.name_of(job)
  remove_from_set(job.priority, requirement, job.member)
  job.priority = 0
  local tag = as_text[job.tag]
  add_to_set(0, requirement, tag, job.member)
  raise_head(requirement, job)
  jobs.set_queued(job, job.deadline)
  events.JobPromoted(job)
end

-- The job waits for any node of its requirement from now on, with the same tag and deadline.
function queue.end_avoidance(job, is_declared)
  queue.remove(job)
  job.avoid_until = nil
  call.or_else(jobs.restore, enqueue, job, queue.name_of(job), queue.reason(is_declared), '',
    as_text[job.tag], job.deadline)
end

-- Remove a head whose job does not wait: a call failed before it had stored the job.
function queue.drop(head)
  write('ZREM', keys.waiting_tags, head.member)
  if remove_from_set(head.priority, head.requirement, head.member) then
    queue.count_waiting(string.match(head.member, '^%d+:([^:]+):'), -1)
  end
  queue.update_head(head.requirement)
end

-- Remove the job from the queue. The caller cancels its timers when it has ended or dispatched the
-- job: if that fails, the timer ends the job.
function queue.remove(job)
  local requirement = queue.name_of(job)
  write('ZREM', keys.waiting_tags, job.member)
  if remove_from_set(job.priority, requirement, job.member) then
    queue.count_waiting(job.tenant, -1)
  end
  if queue.place_of(job) == places.read_through(requirement) then queue.update_head(requirement) end
end

-- The job waits no longer.
function queue.cancel_timers(job)
  timers.cancel_both('wait', 'age', job.key)
  if job.avoid_until then timers.cancel('avoid', job.key) end
end

-- Remove the job from the queue to dispatch it. Virtual time advances to its tag.
function queue.take(job)
  queue.remove(job)
  read_counters()
  if job.tag > queue.virtual then queue.virtual, queue.has_new_counters = job.tag, true end
end

local function write_undispatched()
  local counts = undispatched.read_through()
  for tenant, change in pairs(queue.undispatched) do
    if change ~= 0 then
      local count = write('HINCRBY', keys.tenant_undispatched, tenant, change)
      queue.undispatched[tenant], counts[tenant] = 0, count
      if count <= 0 then
        write('HDEL', keys.tenant_undispatched, tenant)
        counts[tenant] = nil
      end
    end
  end
  queue.undispatched = nil
end

-- Write the counters: waiting jobs by tenant, entries, virtual time, finish tags of tenants. Bound:
-- the tenants of this call.
local function write_counters()
  for tenant, change in pairs(queue.changes) do
    if change ~= 0 then
      local waiting = math.max(write('HINCRBY', keys.tenant_queued, tenant, change), 0)
      queue.changes[tenant] = nil
      tenant_counts.put(tenant, waiting)
      if waiting == 0 then write('HDEL', keys.tenant_queued, tenant) end
    end
  end
  if not queue.has_new_counters then return end
  write('HSET', keys.counters, 'virtual', string.format('%d', queue.virtual),
    'entry', string.format('%d', queue.entry))
  for tenant, finish in pairs(queue.finish) do
    write('ZADD', keys.tenant_finish_tag, string.format('%d', finish), tenant)
  end
  write('ZREMRANGEBYSCORE', keys.tenant_finish_tag, '-inf', string.format('%d', start_tag()))
end

call.on_commit(function()
  if queue.undispatched then write_undispatched() end
  if not queue.virtual and not next(queue.sets) and not next(queue.changes) then return end
  write_counters()
  reset()
end)
return queue
