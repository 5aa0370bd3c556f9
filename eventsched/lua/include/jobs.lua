-- jobs: the job record. Its existence is the idempotency key (rules 10, 11). It is one line,
--   status|attempt|node|epoch|at|deadline|place|outcome|core
-- node, epoch: of the last attempt. at: while it runs, when it was dispatched. deadline: when its lease
-- ends or, while the job waits, its wait.
-- place: `priority,tag,entry` in the queue, once it has waited. core: the JSON that never changes,
-- what an assignment says about the job; once it has ended, what that begins with and the code.
-- include: clock
-- include: json
-- include: keys
-- include: numbers
-- include: write
local jobs = {}

local line = '^(%a+)|(%d+)|([^|]*)|(%d*)|(%d*)|(%d*)|([^|]*)|([^|]*)|()'
local begins = line .. '{"session":"([^"]+)","utterance":(%d+),"target":"([^"]+)",'
  .. '"delivery_no":(%d+),"tp":"([^"\\]*)"()'
local goes_on = '^,"tenant":"([^"]+)","turn":(%d+),"source":"([^"]+)","ms":(%d+),"priority":(%d),'
  .. '"encoding":"[^"]+","sample_rate":%d+,()'

-- The job of one target of an utterance in `work` (include/work). Numbers that are only passed on
-- are text; `record` is the key of its record. `head` and `rest` are its core, but for the last brace:
-- it is put behind them when they are stored or sent.
function jobs.create(key, record, wanted, target, delivery_no)
  return {
    key = key, record = record, attempt = 1, name = wanted.name, is_new = true,
    session = wanted.session, utterance = wanted.utterance,
    target = target, delivery_no = delivery_no, tp = wanted.tp, tenant = wanted.tenant,
    turn = wanted.turn, source = wanted.source, features = wanted.features, ms = wanted.ms,
    priority = wanted.priority, node = '', epoch = nil, place = '', status = nil,
    head = '{"session":"' .. wanted.session .. '","utterance":' .. wanted.utterance .. ',"target":"'
      .. target .. '","delivery_no":' .. delivery_no .. ',', rest = wanted.rest,
  }
end

local passed_on = { utterance = true, delivery_no = true, turn = true, ms = true }
local function decode(job)
  for name, value in pairs(cjson.decode(string.sub(job.kept, job.core_at))) do
    if job[name] == nil then job[name] = passed_on[name] and string.format('%d', value) or value end
  end
  job.features = table.concat(job.features or {}, ',')
end

-- As much as a result needs: the token, the state, and what the core begins with. Or nil.
-- `at` and `deadline` are text.
function jobs.load_header(key)
  local record = keys.of('job', key)
  local kept = redis.call('GET', record)
  if not kept then return nil end
  local status, attempt, node, epoch, at, deadline, place, outcome, core_at, session, utterance,
    target, delivery_no, tp, core_to = string.match(kept, begins)
  if not status then
    status, attempt, node, epoch, at, deadline, place, outcome, core_at = string.match(kept, line)
  end
  local job = {
    key = key, record = record, kept = kept, status = status, attempt = numbers.value[attempt],
    node = node, epoch = numbers.value[epoch], at = at, deadline = deadline, place = place,
    outcome = outcome, core_at = core_at, session = session, utterance = utterance, target = target,
    delivery_no = delivery_no, tp = tp, core_to = core_to,
  }
  if place ~= '' then
    local priority, tag, entry = string.match(place, '^(%d+),(%d+),(%d+)$')
    job.priority, job.tag, job.member = numbers.value[priority], tonumber(tag), entry .. ':' .. key
  end
  if not session then decode(job) end
  job.name = keys.name(job.session)
  return job
end

-- With everything that its core says. Where JSON escapes something in `tp`, `look` has decoded it all.
function jobs.load_body(job)
  if job.head then return job end
  job.head, job.rest = string.sub(job.kept, job.core_at, -2), ''
  if not job.core_to then return job end
  local tenant, turn, source, ms, priority, at = string.match(job.kept, goes_on, job.core_to)
  if not tenant then
    decode(job)
    return job
  end
  local features = string.match(job.kept, '^"features":%[("[^%]]+")%]', at)
  job.tenant, job.turn, job.source, job.ms = tenant, turn, source, ms
  job.priority = job.priority or numbers.value[priority]
  job.features = features and string.gsub(features, '"', '') or ''
  return job
end

function jobs.load(key)
  local job = jobs.load_header(key)
  return job and jobs.load_body(job)
end

-- When the lease of a running attempt ends; nil for any other.
function jobs.lease_deadline(key)
  local kept = redis.call('GET', keys.of('job', key))
  return kept and tonumber(string.match(kept, '^running|%d+|[^|]*|%d*|%d*|(%d+)|'))
end

-- As `read_entity` and tests see it: each part by its name, as text. Or nil.
function jobs.fields(key)
  local kept = redis.call('GET', keys.of('job', key))
  if not kept then return nil end
  local status, attempt, node, epoch, at, deadline, place, outcome, core_at = string.match(kept, line)
  local priority, tag, entry = string.match(place, '^(%d+),(%d+),(%d+)$')
  local core = cjson.decode(string.sub(kept, core_at))
  return { status = status, attempt = attempt, node = node, epoch = epoch, dispatched = at,
    deadline = deadline, priority = priority, tag = tag, member = entry and entry .. ':' .. key,
    outcome = outcome, code = core.code or '' }, core
end

-- The code with which it failed.
function jobs.failure_code(job)
  return cjson.decode(string.sub(job.kept, job.core_at)).code
end

local function put(job, status, at, deadline, outcome, head, rest)
  job.status = status
  write('SET', job.record, status .. '|' .. numbers.text[job.attempt] .. '|' .. job.node .. '|'
    .. (job.epoch and numbers.text[job.epoch] or '') .. '|' .. at .. '|' .. deadline .. '|' .. job.place
    .. '|' .. outcome .. '|' .. head .. rest .. '}')
end

-- It is on its node, until `deadline`, which is text.
function jobs.set_running(job, node, deadline)
  job.node, job.epoch = node.name, node.epoch
  put(job, 'running', clock.text(), deadline, '', job.head, job.rest)
end

-- Its node may hold it for longer. `deadline` is text.
function jobs.set_deadline(job, deadline)
  put(job, 'running', job.at, deadline, '', job.head, job.rest)
end

-- It waits at its place in the queue. `deadline` is text.
function jobs.set_queued(job, tag, deadline)
  job.deadline = deadline
  job.place = numbers.text[job.priority] .. ',' .. tag .. ',' .. string.sub(job.member, 1, 16)
  put(job, 'queued', '', deadline, '', job.head, job.rest)
end

-- What its core begins with, as far as `look` reads it.
local function beginning(job)
  if job.core_to then return string.sub(job.kept, job.core_at, job.core_to - 1) end
  return '{"session":"' .. job.session .. '","utterance":' .. job.utterance .. ',"target":"'
    .. job.target .. '","delivery_no":' .. job.delivery_no .. ',"tp":' .. json.quote(job.tp)
end

-- The job takes no further part: nothing but its end is remembered, until its session retires.
function jobs.set_ended(job, outcome, code)
  job.place = ''
  put(job, 'ended', '', '', outcome, beginning(job),
    json.optional(code) and ',"code":' .. json.quote(code) or '')
end
return jobs
