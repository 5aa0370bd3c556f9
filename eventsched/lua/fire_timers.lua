#!lua flags=allow-oom
-- fire_timers: do what is due, in order, a bounded number at a time; one whose cause is gone does
-- nothing (rules 2, 5, 6, 8, 10, 13, 14, 18, 20, 25).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
-- Reply: [fired, next_ms, now_ms]   next_ms: when the next is due, or -1
-- Refusals: none
-- Events: any but those of opening, resuming, registering and results
-- Bound: 16 timers; 16 leases of 256, 32 outcomes or 256 keys each, and the open outcomes of a session;
--   8 jobs of utterances that end, each with 64 demands and 8 fills
local fired_max, retired_max = 16, 256
local audio_wait_ms = 60000
-- include: archive
-- include: assign
-- include: attempts
-- include: call
-- include: classes
-- include: clock
-- include: dead_letters
-- include: delivery
-- include: events
-- include: jobs
-- include: keys
-- include: nodes
-- include: queue
-- include: sessions
-- include: settings
-- include: strings
-- include: timers
-- include: write
local fire = {}

-- What fails is parked, and the rest goes on. Whether it went well, and what it returned.
local function try(member, step, ...)
  call.has_written = false
  local ok, result = pcall(step, ...)
  if not ok then dead_letters.add('timers', member, 'timer', '', result) end
  return ok, result
end

function fire.pause(full)
  local s = sessions.get(keys.name(full))
  if not s or s.status ~= 'open' or s.buf_bytes == 0 or sessions.is_playing(s) then return end
  local due = s.buf_at + settings.pause_ms
  if due > clock.now() then return timers.set(due, 'pause', full) end
  sessions.finalize(s, 'pause')
end

function fire.idle(full)
  local s = sessions.get(keys.name(full))
  if not s or s.status ~= 'open' then return end
  local due = s.seen + settings.idle_ms
  if due > clock.now() then return timers.set(due, 'idle', full) end
  sessions.close(s, 'idle')
end

function fire.playback(id)
  local full, field = string.match(id, '^(.-)|(.*)$')
  local s = sessions.get(keys.name(full))
  if s and redis.call('HEXISTS', keys.of('playing', s.name), field) == 1 then
    sessions.end_playback(s, field, 'deadline')
  end
end

-- The next number is given up; whatever its job does stops (rule 25). Notes the node that it frees.
local function give_up(s, target, number, reason, freed)
  local outcome = delivery.find_outcome(s.name, target, number)
  local key = table.concat({ s.tenant, s.full, string.format('%d', outcome.utterance),
    'translation', target, s.features_hash }, ':')
  local job = jobs.load(key)
  delivery.skip(s.name, target, number, outcome,
    { kind = 'missing', reason = reason, job = key, tp = s.tp })
  local node = job and attempts.cancel(job, '')
  if node then freed[node.name] = node end
end

local function fill_all(freed)
  local node_names = {}
  for name in pairs(freed) do node_names[#node_names + 1] = name end
  table.sort(node_names, strings.precedes)
  for _, name in ipairs(node_names) do assign.fill(freed[name], '') end
end

-- The gap in front of what has been ready for longest is over: what is missing is given up, what
-- is ready goes out. Bound: 32 numbers a call.
function fire.gap(id)
  local full, target = string.match(id, '^(.-)|(.*)$')
  local s = sessions.get(keys.name(full))
  if not s then return end
  local longest = redis.call('ZRANGE', keys.of('out_of_order_at', s.name, target), 0, 0, 'WITHSCORES')
  if not longest[1] then return end
  local ready_no, ready_at = tonumber(longest[1]), tonumber(longest[2])
  local number, given_up, freed = delivery.next_number(s.name, target), 0, {}
  while clock.now() >= ready_at + settings.delivery_gap_timeout_ms and number < ready_no
    and given_up < sessions.given_up_max do
    if delivery.find_held(s.name, target, number) then break end -- more than one step could send
    give_up(s, target, number, 'gap', freed)
    given_up = given_up + 1
    delivery.drain_ready(s.name, target)
    number = delivery.next_number(s.name, target)
  end
  delivery.drain_ready(s.name, target)
  fill_all(freed)
end

-- The close wait is over: what is open ends as missing, in order. Bound: 32 outcomes a call.
function fire.close(full)
  local s = sessions.get(keys.name(full))
  if not s or s.status ~= 'closing' then return end
  local open, targets, given_up, freed = {}, {}, 0, {}
  for field in pairs(delivery.open_outcomes(s.name)) do
    local target = string.match(field, '^(.*)/%d+$')
    if not open[target] then
      open[target] = true
      targets[#targets + 1] = target
    end
  end
  table.sort(targets)
  for _, target in ipairs(targets) do
    local number = delivery.next_number(s.name, target)
    while given_up < sessions.given_up_max and delivery.find_outcome(s.name, target, number) do
      if not delivery.find_held(s.name, target, number) then
        give_up(s, target, number, 'close', freed)
        given_up = given_up + 1
      end
      if delivery.drain_ready(s.name, target) == delivery.step_max then break end
      number = delivery.next_number(s.name, target)
    end
  end
  write('HINCRBY', keys.of('session', s.name), 'missing', given_up)
  timers.set(clock.now(), 'close', full)
  delivery.touched[s.name] = true
  fill_all(freed)
end

local function end_lease(job_key)
  attempts.redispatch(jobs.load(job_key), 'lease', nil, '')
end

-- What a registration holds beyond its time goes elsewhere, 16 a call, and the timer is set for when
-- more may be over (rule 19). True when that is in the past: what was due after it waits for the next
-- call, so that a late timekeeper catches up in order.
function fire.leases(id, at)
  local name, epoch = string.match(id, '^(.-)|(%d+)$')
  local over, next_ms = attempts.expired_leases(name, epoch, at)
  if not next_ms then return false end
  local ended = 0
  for i = 1, math.min(#over, attempts.requeued_max) do
    if try('leases|' .. id, end_lease, over[i]) then ended = ended + 1 end
  end
  -- Where nothing could be ended the next try is not at once.
  if ended > 0 and #over > attempts.requeued_max then next_ms = at end
  timers.set_earlier(next_ms, 'leases', id)
  return next_ms <= clock.now()
end

function fire.age(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'queued' or job.priority == 0 then return end
  queue.promote(job)
end

function fire.wait(job_key)
  local job = jobs.load(job_key)
  if not job or job.status ~= 'queued' then return end
  local _, declared = classes.matching(job.source, job.target, job.features)
  queue.remove(job)
  attempts.fail(job, queue.reason(declared), '')
end

function fire.node(name)
  local node = nodes.get(name)
  if not node or node.status == 'gone' then return end
  local seen = tonumber(redis.call('HGET', keys.of('node', name), 'seen')) or 0
  local due = seen + settings.node_lost_ms
  if due > clock.now() then return timers.set(due, 'node', name) end
  attempts.end_registration(node, 'silent')
  attempts.requeue_leases(name, node.epoch, 'node_lost')
end

function fire.lost(id)
  local full, epoch, reason = string.match(id, '^(.-)|(%d+)|(.*)$')
  attempts.requeue_leases(keys.name(full), tonumber(epoch), reason)
end

function fire.drain(name)
  local node = nodes.get(name)
  if not node or node.status ~= 'draining' then return end
  attempts.requeue_leases(name, node.epoch, 'drained')
  nodes.finish_drain(node)
end

function fire.mark(id)
  local name, feature = string.match(id, '^(.-)|(.*)$')
  local node = nodes.get(name)
  if not node or node.status == 'gone' or not strings.set_of(node.marked)[feature] then return end
  local marked = {}
  for _, other in ipairs(strings.split(node.marked)) do
    if other ~= feature then marked[#marked + 1] = other end
  end
  nodes.change_class(node, marked)
  events.NodeResumed(node, feature)
  assign.fill(node, '')
end

local function targets_of(session)
  local list = {}
  for _, field in ipairs(redis.call('HKEYS', session)) do
    local target = string.match(field, '^a:(.*)$')
    if target then list[#list + 1] = target end
  end
  table.sort(list)
  return list
end

-- SessionRetired first, then the records, 256 keys a call (rule 10).
function fire.retire(full)
  local name = keys.name(full)
  local s = sessions.get(name)
  if not s or (s.status ~= 'closed' and s.status ~= 'retired') then return end
  local session = keys.of('session', name)
  if s.status ~= 'retired' then
    if archive.keeps_audio() and not archive.holds_before(settings.session_retention_ms) then
      return timers.set(clock.now() + audio_wait_ms, 'retire', full)
    end
    events.SessionRetired(s, targets_of(session))
    write('HSET', session, 'status', 'retired')
    s.status = 'retired'
  end
  local from = tonumber(redis.call('HGET', session, 'retired_to')) or 0
  local targets = targets_of(session)
  -- Of its 256 keys a call leaves room for those that the last one removes beside jobs.
  local jobs_max = retired_max - #targets - 6
  local upto = math.min(s.utterance,
    from + math.max(1, math.floor(jobs_max / math.max(#targets, 1))))
  for utterance = from, upto - 1 do
    for _, target in ipairs(targets) do
      write('DEL', keys.of('job', table.concat({ s.tenant, full, string.format('%d', utterance),
        'translation', target, s.features_hash }, ':')))
    end
  end
  if upto < s.utterance then
    write('HSET', session, 'retired_to', upto)
    return timers.set(clock.now(), 'retire', full)
  end
  for _, target in ipairs(targets) do write('DEL', keys.of('out_of_order_at', name, target)) end
  write('DEL', session, keys.of('outcomes', name), keys.of('out_of_order', name), keys.of('playing', name),
    keys.of('audio', name), keys.of('outbox', name))
  sessions.known[name] = false
  sessions.evict(name)
end

local now = clock.now()
local due = redis.call('ZRANGEBYSCORE', keys.timers, '-inf', clock.text(), 'LIMIT', 0,
  fired_max)
local fired = 0
for _, member in ipairs(due) do
  fired = fired + 1
  -- One before it may have dropped this timer, or set it anew for something that is not due.
  local due_ms = tonumber(redis.call('ZSCORE', keys.timers, member))
  if due_ms and due_ms <= now then
    local kind, id = string.match(member, '^(%a+)|(.*)$')
    write('ZREM', keys.timers, member)
    local ok, is_behind = try(member, fire[kind], id, due_ms)
    if ok and is_behind then break end
  end
end
-- Sessions that close when the call commits set and drop timers, too.
return function()
  local next_due = redis.call('ZRANGE', keys.timers, 0, 0, 'WITHSCORES')
  return { fired, next_due[2] and tonumber(next_due[2]) or -1, now }
end
