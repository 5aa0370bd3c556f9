-- jobs: the job record. Its existence is the idempotency key (rules 10, 11).
-- `core` is the JSON that never changes: what an assignment says about the job. It begins with
-- what every result needs, so that `look` finds that without decoding the rest.
-- include: keys
-- include: write
-- include: clock
-- include: json
-- include: text
local jobs = {}

local core_begins = '^{"session":"([^"]+)","utterance":(%d+),"target":"([^"]+)",'
  .. '"delivery_no":(%d+),"tp":"",()'
local core_goes_on = '^"tenant":"([^"]+)","turn":(%d+),"source":"([^"]+)","ms":(%d+),"priority":(%d),'
  .. '"audio":"[^"]+","rate":%d+,()'

-- The job of one target of an utterance in `work` (include/work). Numbers that are only passed on
-- are text.
function jobs.create(key, wanted, target, delivery_no)
  return {
    key = key, attempt = 1, name = wanted.name, is_new = true,
    session = wanted.session, utterance = wanted.utterance,
    target = target, delivery_no = delivery_no, tp = wanted.tp, tenant = wanted.tenant,
    turn = wanted.turn, source = wanted.source, services = wanted.services, ms = wanted.ms,
    priority = wanted.priority,
    core = '{"session":"' .. wanted.session .. '","utterance":' .. wanted.utterance .. ',"target":"'
      .. target .. '","delivery_no":' .. delivery_no .. ',' .. wanted.rest,
  }
end

local passed_on = { utterance = true, delivery_no = true, turn = true, ms = true }
-- `create` wrote it: what follows its beginning. False when it has a form of its own.
local function read_on(job)
  local tenant, turn, source, ms, priority, at = string.match(job.core, core_goes_on, job.goes_on)
  if not tenant then return false end
  local services = string.match(job.core, '^"services":%[("[^%]]+")%]', at)
  job.tenant, job.turn, job.source, job.ms = tenant, turn, source, ms
  job.priority = job.priority or tonumber(priority)
  job.services = services and string.gsub(services, '"', '') or ''
  return true
end

local function decode(job)
  for name, value in pairs(cjson.decode(job.core)) do
    if job[name] == nil then job[name] = passed_on[name] and string.format('%d', value) or value end
  end
  job.services = table.concat(job.services or {}, ',')
end

-- As much as a result needs: the token, the state, and what the core begins with. Or nil. Its times,
-- `deadline` and `dispatched`, are text.
function jobs.look(key)
  local kept = redis.call('HMGET', keys.of('job', key), 'status', 'attempt', 'node', 'epoch', 'core',
    'priority', 'tag', 'member', 'deadline', 'dispatched', 'outcome', 'code')
  if not kept[1] then return nil end
  local job = {
    key = key, core = kept[5], status = kept[1], attempt = tonumber(kept[2]), node = kept[3],
    epoch = tonumber(kept[4]), priority = tonumber(kept[6]), tag = tonumber(kept[7]),
    member = kept[8] or nil, deadline = kept[9], dispatched = kept[10],
    outcome = kept[11] or nil, code = kept[12] or nil,
  }
  local session, utterance, target, number, goes_on = string.match(job.core, core_begins)
  if session then
    job.session, job.utterance, job.target = session, utterance, target
    job.delivery_no, job.tp, job.goes_on = number, '', goes_on
  else
    decode(job)
  end
  job.name = keys.name(job.session)
  return job
end

-- With everything that its core says.
function jobs.whole(job)
  if not job.source and not (job.goes_on and read_on(job)) then decode(job) end
  return job
end

function jobs.load(key)
  local job = jobs.look(key)
  return job and jobs.whole(job)
end

-- It is on its node. `attempt` and `epoch` are text.
function jobs.run(job, attempt, epoch)
  local key = keys.of('job', job.key)
  if job.is_new then
    write('HSET', key, 'status', 'running', 'attempt', attempt, 'node', job.node, 'epoch', epoch,
      'dispatched', clock.text(), 'core', job.core)
  else
    write('HSET', key, 'status', 'running', 'attempt', attempt, 'node', job.node, 'epoch', epoch,
      'dispatched', clock.text())
  end
end

-- The job takes no further part: nothing but its end is remembered, until its session retires.
function jobs.finish(job, outcome, code)
  job.status, job.outcome, job.code = 'ended', outcome, code
  write('HSET', keys.of('job', job.key), 'status', 'ended', 'outcome', outcome,
    'attempt', text.of(job.attempt), 'code', code or '')
end
