#!lua flags=no-writes
-- read_entity: the authoritative state of sessions, jobs, nodes, rooms, tenants, capability classes
-- or language pairs, with the last id of the log. The state equals the fold of the log up to that
-- id.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   kind            session | job | node | room | tenant | class | pair
--   then per entity, at most 4096: name (in the cell, its job key, tenant/room, tenant, id of a
--     class, or source:target), epochs
--     (of a node: earlier registrations whose leases are read as well, joined by comma,
--     at most 65,536 B; else empty)
-- Reply: JSON: {last, entities: [{…} per entity]}; a missing entity is {}; an entity with keys of
--   another type is {other_type: [key after the prefix]}
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the entities given, at most 4096; a session's open outcomes, a node's leases, the first
--   100 waiting requirements of its class, a room's members, a class's nodes, a pair's classes
local epoch_digits_max = 15
local epochs_back, lost_reasons = 2, { 'node_lost', 'superseded', 'drained' }
-- include: jobs
-- include: keys
-- include: nodes
-- include: numbers
-- include: queue
-- include: reply
-- include: strings

-- `verify` reads what may be damaged: a field that is missing, or a record that cannot be read, is
-- left out of the reply.
local probes = {
  hash = function(key) return redis.call('HLEN', key) end,
  set = function(key) return redis.call('SCARD', key) end,
  stream = function(key) return redis.call('XLEN', key) end,
  string = function(key) return redis.call('GET', key) end,
  zset = function(key) return redis.call('ZCARD', key) end,
}
local other_type

-- Whether the key is absent or of this type; otherwise notes the key.
local function has_type(key, expected)
  local is_read, failure = pcall(probes[expected], key)
  if is_read then return true end
  if not reply.is_wrong_type(failure) then error(failure, 0) end
  other_type[#other_type + 1] = string.sub(key, #keys.prefix + 1)
  return false
end

local function hash(key)
  return has_type(key, 'hash') and reply.by_name(redis.call('HGETALL', key)) or {}
end

local function scores(key)
  return has_type(key, 'zset') and reply.by_name(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'))
    or {}
end

local function due(member)
  return redis.call('ZSCORE', keys.timers, member) or nil
end

-- The state of the job of an open outcome, and the timers that will end the job. The timer of a
-- lease is the timer of its registration, which is due no later than the deadline. A job whose
-- record says that it runs, but that holds no lease, is released: its attempt has ended.
local function job_of(s, full, target, utterance)
  local key = table.concat({ s.tenant or '', full, utterance, 'translation', target,
    s.features_hash or '' }, ':')
  local is_readable, job = pcall(jobs.load_header, key)
  if not is_readable or not job then job = {} end
  if job.status == 'running' then
    local is_known, holds = pcall(nodes.holds, job)
    if is_known and not holds then job.status = 'released' end
  end
  local lease = job.status == 'running'
    and due('leases|' .. job.node .. '|' .. numbers.text[job.epoch])
  return { key = key, status = job.status, deadline = job.deadline, priority = job.priority,
    avoid_until = job.avoid_until, lease = lease or nil, wait = due('wait|' .. key),
    age = due('age|' .. key), avoid = due('avoid|' .. key), backoff = due('backoff|' .. key) }
end

-- The kind of each held ending.
local function held_of(name)
  local kinds = {}
  for field, stored in pairs(hash(keys.of('out_of_order', name))) do
    if string.match(field, '^[^/]+/%d+$') then
      local is_readable, ending = pcall(cjson.decode, stored)
      kinds[field] = is_readable and type(ending) == 'table' and ending.kind or 'unreadable'
    end
  end
  return kinds
end

-- Number and bytes of the newest entry of the outbox, as `number:bytes`; empty without an entry.
local function newest_of(outbox)
  if not has_type(outbox, 'stream') then return '' end
  local newest = redis.call('XREVRANGE', outbox, '+', '-', 'COUNT', 1)[1]
  return newest and reply.by_name(newest[2]).i or ''
end

local read = {}

function read.session(name)
  local s, full = hash(keys.of('session', name)), keys.full(name)
  if not s.status then return {} end
  s.tokens, s.secret_sha1 = nil, nil
  local outcomes, outcome_jobs, ready, gaps = hash(keys.of('outcomes', name)), {}, {}, {}
  for field, stored in pairs(outcomes) do
    local target, utterance = string.match(field, '^(.*)/'), string.match(stored, '^%d+')
    outcome_jobs[field] = target and utterance and job_of(s, full, target, utterance) or {}
  end
  for field in pairs(s) do
    local target = string.match(field, '^a:(.*)$')
    if target then
      ready[target] = scores(keys.of('out_of_order_at', name, target))
      gaps[target] = due('gap|' .. full .. '|' .. target)
    end
  end
  local playing, playback_timers = hash(keys.of('playing', name)), {}
  for field in pairs(playing) do
    playback_timers[field] = due('playback|' .. full .. '|' .. field)
  end
  has_type(keys.of('audio', name), 'stream')
  local newest = newest_of(keys.of('outbox', name))
  local room_key = keys.room(s.room)
  local room = room_key and has_type(room_key, 'hash') and redis.call('HGET', room_key, full)
  local of_same_tenant = keys.of('tenant_sessions', s.tenant or '')
  local is_counted = has_type(of_same_tenant, 'set')
    and redis.call('SISMEMBER', of_same_tenant, name) == 1
  return { counted = is_counted, hash = s, outcomes = outcomes, jobs = outcome_jobs,
    ready = ready, gaps = gaps, held = held_of(name), playing = playing,
    playback_timers = playback_timers, newest = newest,
    room = room or nil, idle = due('idle|' .. full), pause = due('pause|' .. full),
    close = due('close|' .. full), retire = due('retire|' .. full) }
end

-- Whether the keys of a requirement, of its language pair and of their classes have their types.
local function has_queue_types(source, target, requirement)
  local pair = keys.of('pair', source, target)
  local is_right = has_type(keys.requirements, 'hash')
  for priority = 0, 2 do
    local waiting = keys.of('waiting', numbers.text[priority], requirement)
    is_right = has_type(waiting, 'zset') and is_right
  end
  if not has_type(pair, 'set') then return false end
  for _, class in ipairs(redis.call('SMEMBERS', pair)) do
    is_right = has_type(keys.of('class', class), 'hash') and is_right
    is_right = has_type(keys.of('requirements', class), 'zset') and is_right
  end
  return is_right
end

function read.job(key)
  if not has_type(keys.of('job', key), 'string') then return {} end
  local job, core, text = jobs.fields(key)
  if not job then return {} end
  local tag, requirement, head_fault, tag_of_all, backoff
  if job.status == 'queued' or job.status == 'backoff' then
    local features = table.concat(core.features or {}, ',')
    requirement = table.concat({ core.source, core.target, features }, ':')
  end
  if job.status == 'backoff' and has_type(keys.backoffs, 'zset') then
    backoff = redis.call('ZSCORE', keys.backoffs, requirement .. ' ' .. key) or nil
  end
  if job.status == 'queued' then
    local features = table.concat(core.features or {}, ',')
    local avoided = job.dispatched ~= '' and job.node or nil
    if avoided then requirement = requirement .. '|' .. avoided end
    if has_queue_types(core.source, core.target, requirement) then
      tag = redis.call('ZSCORE', keys.of('waiting', job.priority, requirement), job.member) or nil
      head_fault = queue.head_fault(core.source, core.target, features, avoided)
    end
    if has_type(keys.waiting_tags, 'zset') then
      tag_of_all = redis.call('ZSCORE', keys.waiting_tags, job.member) or nil
    end
  end
  return { hash = job, tag = tag, tag_of_all = tag_of_all, requirement = requirement, core = text,
    head_fault = head_fault, backoff = backoff }
end

-- The epoch of a node; 0 if the stored text is no epoch. A loop over a number that is too large for
-- a counter would not end.
local function epoch_of(node)
  local digits = string.match(node.epoch or '', '^%d+$')
  return digits and #digits <= epoch_digits_max and tonumber(digits) or 0
end

-- An item of a class that names no next job; nil if there is none. The jobs of a queue of another
-- type name its key.
local function wrong_item(class)
  local is_read, item = pcall(queue.wrong_item, class)
  if is_read then return item end
  if not reply.is_wrong_type(item) then error(item, 0) end
  return 'a queue of another type'
end

-- The leases of the present registration, of the two before it, and of `epochs`.
function read.node(name, epochs)
  local node = hash(keys.of('node', name))
  if not node.status then return {} end
  node.token, node.tokens = nil, nil
  local leases, present, class = {}, epoch_of(node), node.class or ''
  local lease_timers, lost_timers, suspension_timers = {}, {}, {}
  local numbers_read = strings.split(epochs)
  for epoch = math.max(1, present - epochs_back), present do
    numbers_read[#numbers_read + 1] = string.format('%d', epoch)
  end
  for _, no in ipairs(numbers_read) do
    leases[no] = scores(keys.of('leases', name, no))
    lease_timers[no] = due('leases|' .. name .. '|' .. no)
    for _, reason in ipairs(lost_reasons) do
      local id = 'lost|' .. keys.full(name) .. '|' .. no .. '|' .. reason
      lost_timers[no] = lost_timers[no] or due(id)
    end
  end
  for _, feature in ipairs(strings.split(node.suspended or '')) do
    suspension_timers[feature] = due('suspension|' .. name .. '|' .. feature)
  end
  local members, free = keys.of('members', class), keys.of('free', class)
  return { hash = node, leases = leases, lease_timers = lease_timers, lost_timers = lost_timers,
    suspension_timers = suspension_timers, node = due('node|' .. name),
    drain = due('drain|' .. name), gone = due('gone|' .. name),
    member = has_type(members, 'set') and redis.call('SISMEMBER', members, name),
    free = has_type(free, 'zset') and redis.call('ZSCORE', free, name) or nil,
    wrong_item = has_type(keys.of('requirements', class), 'zset') and wrong_item(class) or nil }
end

function read.room(name)
  return { members = hash(keys.of('room', name)) }
end

function read.class(id)
  local members, free = keys.of('members', id), keys.of('free', id)
  return { hash = hash(keys.of('class', id)),
    listed = has_type(keys.classes, 'set') and redis.call('SISMEMBER', keys.classes, id) == 1,
    members = has_type(members, 'set') and redis.call('SMEMBERS', members) or {},
    free = has_type(free, 'zset') and redis.call('ZRANGE', free, '0', '-1') or {} }
end

function read.pair(name)
  local source, target = string.match(name, '^(.*):(.*)$')
  local pair = keys.of('pair', source or '', target or '')
  return { classes = has_type(pair, 'set') and redis.call('SMEMBERS', pair) or {} }
end

function read.tenant(name)
  local queued = has_type(keys.tenant_queued, 'hash')
    and redis.call('HGET', keys.tenant_queued, name)
  return { queued = queued or '' }
end

-- The state of an entity. The keys of another type are reported alone: what else was read of the
-- entity does not show its state.
local function state_of(entity)
  other_type = {}
  local is_read, state = pcall(read[kind], entity.name, entity.epochs)
  if #other_type > 0 then return { other_type = other_type } end
  if not is_read then error(state, 0) end
  return state
end

local last = redis.call('XREVRANGE', keys.log, '+', '-', 'COUNT', 1)
local entities = {}
for i, entity in each_entity(ARGV) do entities[i] = state_of(entity) end
return cjson.encode({ last = last[1] and last[1][1] or '0-0', entities = entities })
