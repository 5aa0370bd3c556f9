-- jobs: the job record. Its existence is the idempotency key (rules 10, job identity; 11, one
-- atomic dispatch). The record is one line,
--   status|attempt|node|epoch|at|deadline|place|outcome|refused|core
-- node, epoch: of the last attempt. at: when a running job was dispatched; until when a job with
-- the status `backoff` backs off; until when a queued job avoids the node of its last attempt, or
-- empty. deadline: when the lease of a running job ends, or the wait of a queued job; of a job that
-- backs off, until when it will avoid the node of its last attempt. place: `priority,tag,entry` in
-- the queue, once the job has waited. refused: the refused reports that the log has, as `fencing`
-- writes them; mostly empty. core: JSON that never changes and that assignments repeat; of an ended
-- job only the first fields, and the code. Its field `finalized` is the time of UtteranceFinalized;
-- without it events have no `age_ms`.
--
-- Damaged records. A record with another form, or without a field that its status needs, raises
-- STATE_DAMAGED. `find` is for calls that have written already: for them such a record is none.
-- include: clock
-- include: damage
-- include: json
-- include: keys
-- include: numbers
-- include: write
local jobs = {}
local as_text, as_number = numbers.text, numbers.value

local record_pattern = '^(%a+)|(%d+)|([^|]*)|(%d*)|(%d*)|(%d*)|([^|]*)|([^|]*)|([^|]*)|()'
local header_pattern = record_pattern
  .. '{"session":"([^"]+)","utterance":(%d+),"target":"([^"]+)",'
  .. '"delivery_no":(%d+),"finalized":(%d+),"tp":"([^"\\]*)"()'
local body_pattern = '^,"tenant":"([^"]+)","turn":(%d+),"source":"([^"]+)","ms":(%d+),'
  .. '"priority":(%d),' .. '"encoding":"[^"]+","sample_rate":%d+,()'

-- The job of one target of `entry`, an utterance as `dispatch_entry` decodes it. Numbers that
-- dispatch does not compute with are text. `record` is the key of the record; `head` and `rest` are
-- the core without its last brace.
function jobs.create(key, record, entry, target, delivery_no)
  local finalized = string.match(entry.log, '^%d+')
  return {
    key = key, record = record, attempt = 1, name = entry.name, finalized = finalized,
    session = entry.session, utterance = entry.utterance,
    target = target, delivery_no = delivery_no, tp = entry.tp, tenant = entry.tenant,
    turn = entry.turn, source = entry.source, features = entry.features, ms = entry.ms,
    priority = entry.priority, node = '', epoch = nil, place = '', refused = '', status = nil,
    head = '{"session":"' .. entry.session .. '","utterance":' .. entry.utterance .. ',"target":"'
      .. target .. '","delivery_no":' .. delivery_no .. ',"finalized":' .. finalized .. ',',
    rest = entry.rest,
  }
end

local is_text_number =
  { utterance = true, delivery_no = true, finalized = true, turn = true, ms = true }
-- The fields of the core by type: of every job, and of one that has not ended.
local head_fields = { session = 'string', utterance = 'number', target = 'string',
  delivery_no = 'number', tp = 'string' }
local body_fields = { tenant = 'string', turn = 'number', source = 'string', ms = 'number',
  priority = 'number', encoding = 'string', sample_rate = 'number' }

local function check_core(key, core, types)
  for field, kind in pairs(types) do
    if type(core[field]) ~= kind then damage.raise('job:' .. key, field) end
  end
end

-- Whether the core is a table without features, or with a list of texts.
local function has_features(core)
  if type(core) ~= 'table' or type(core.features or {}) ~= 'table' then return false end
  for _, feature in ipairs(core.features or {}) do
    if type(feature) ~= 'string' then return false end
  end
  return true
end

-- Read the core with cjson: its free text has characters that JSON escapes.
local function decode_core(job)
  local is_json, core = pcall(cjson.decode, string.sub(job.stored, job.core_at))
  if not is_json or type(core) ~= 'table' then damage.raise('job:' .. job.key, 'core') end
  if not has_features(core) then damage.raise('job:' .. job.key, 'features') end
  check_core(job.key, core, head_fields)
  if job.status ~= 'ended' then check_core(job.key, core, body_fields) end
  for name, value in pairs(core) do
    if job[name] == nil then
      job[name] = is_text_number[name] and string.format('%d', value) or value
    end
  end
  job.features = table.concat(job.features or {}, ',')
end

-- Check what the record has before its core.
local function check_state(job)
  local status, record = job.status, 'job:' .. job.key
  if status == 'ended' then return end
  if status ~= 'running' and status ~= 'queued' and status ~= 'backoff' then
    damage.raise(record, 'status')
  end
  if job.deadline == '' then damage.raise(record, 'deadline') end
  local has_run = status ~= 'queued' or job.at ~= ''
  if has_run and (job.node == '' or not job.epoch) then damage.raise(record, 'node') end
  if has_run and job.at == '' then damage.raise(record, 'at') end
  if status ~= 'running' and not job.member then damage.raise(record, 'place') end
end

-- The fields of a job that a result needs: the fencing token, the state and the first fields of the
-- core; nil without a record. `at` and `deadline` are text.
function jobs.load_header(key)
  local record = keys.of('job', key)
  local stored = redis.call('GET', record)
  if not stored then return nil end
  local status, attempt, node, epoch, at, deadline, place, outcome, refused, core_at, session,
    utterance, target, delivery_no, finalized, tp, core_to = string.match(stored, header_pattern)
  if not status then
    status, attempt, node, epoch, at, deadline, place, outcome, refused, core_at =
      string.match(stored, record_pattern)
    if not status then damage.raise('job:' .. key, 'record') end
  end
  local job = {
    key = key, record = record, stored = stored, status = status, attempt = as_number[attempt],
    node = node, epoch = as_number[epoch], at = at, deadline = deadline, place = place,
    outcome = outcome, refused = refused, core_at = core_at, session = session,
    utterance = utterance, target = target, delivery_no = delivery_no, finalized = finalized,
    tp = tp, core_to = core_to,
  }
  if place ~= '' then
    local priority, tag, entry = string.match(place, '^(%d+),(%d+),(%d+)$')
    if not entry then damage.raise('job:' .. key, 'place') end
    job.priority, job.tag, job.member = as_number[priority], tonumber(tag), entry .. ':' .. key
  end
  check_state(job)
  if status == 'queued' and at ~= '' then job.avoid_until = at end
  if not session then decode_core(job) end
  job.name = keys.name(job.session)
  if not job.name then damage.raise('job:' .. key, 'session') end
  return job
end

-- Add the other fields of the core to a job whose header is loaded.
function jobs.load_body(job)
  if job.head then return job end
  job.head, job.rest = string.sub(job.stored, job.core_at, -2), ''
  if not job.core_to then return job end -- `load_header` has decoded all of the core
  local tenant, turn, source, ms, priority, at = string.match(job.stored, body_pattern, job.core_to)
  if not tenant then
    decode_core(job)
    return job
  end
  local features = string.match(job.stored, '^"features":%[("[^%]]+")%]', at)
  job.tenant, job.turn, job.source, job.ms = tenant, turn, source, ms
  job.priority = job.priority or as_number[priority]
  job.features = features and string.gsub(features, '"', '') or ''
  return job
end

function jobs.load(key)
  local job = jobs.load_header(key)
  return job and jobs.load_body(job)
end

-- As `load` and `load_header`; nil also for a damaged record.
function jobs.find(key)
  return damage.value_or_nil(jobs.load, key)
end
function jobs.find_header(key)
  return damage.value_or_nil(jobs.load_header, key)
end

-- When the lease of a running job ends, in ms; nil for any other job.
function jobs.lease_deadline(key)
  local stored = redis.call('GET', keys.of('job', key))
  return stored and tonumber(string.match(stored, '^running|%d+|[^|]*|%d*|%d*|(%d+)|'))
end

-- For `read_entity`: the fields of the record by name, as text, the decoded core, and the core as
-- it is stored; nil without a record. The status of a damaged record is `unreadable`.
function jobs.fields(key)
  local stored = redis.call('GET', keys.of('job', key))
  if not stored then return nil end
  local status, attempt, node, epoch, at, deadline, place, outcome, refused, core_at =
    string.match(stored, record_pattern)
  local text = string.sub(stored, core_at or 1)
  local is_readable, core = pcall(cjson.decode, text)
  if not status or not is_readable or not has_features(core) or not jobs.find(key) then
    return { status = 'unreadable', attempt = '', deadline = '', outcome = '' }, {}, ''
  end
  local priority, tag, entry = string.match(place, '^(%d+),(%d+),(%d+)$')
  return { status = status, attempt = attempt, node = node, epoch = epoch, dispatched = at,
    deadline = deadline, place = place, priority = priority, tag = tag,
    member = entry and entry .. ':' .. key,
    outcome = outcome, refused = refused, code = core.code or '' }, core, text
end

-- The code of a job that has failed; nil for a damaged core.
function jobs.failure_code(job)
  local is_json, core = pcall(cjson.decode, string.sub(job.stored, job.core_at))
  return is_json and type(core) == 'table' and core.code or nil
end

local function store(job, status, at, deadline, outcome, head, rest)
  job.status = status
  write('SET', job.record, status .. '|' .. as_text[job.attempt] .. '|' .. job.node .. '|'
    .. (job.epoch and as_text[job.epoch] or '') .. '|' .. at .. '|' .. deadline .. '|' .. job.place
    .. '|' .. outcome .. '|' .. job.refused .. '|' .. head .. rest .. '}')
end

-- The job record names these refused reports. The job is as this call has loaded it.
function jobs.set_refused(job, refused)
  local before = string.sub(job.stored, 1, job.core_at - #job.refused - 2)
  write('SET', job.record, before .. refused .. '|' .. string.sub(job.stored, job.core_at))
end

-- The job runs on the node until `deadline`, which is text.
function jobs.set_running(job, node, deadline)
  job.node, job.epoch = node.name, node.epoch
  store(job, 'running', clock.text(), deadline, '', job.head, job.rest)
end

-- The lease of a running job ends at `deadline`, which is text.
function jobs.set_deadline(job, deadline)
  store(job, 'running', job.at, deadline, '', job.head, job.rest)
end

local function set_place(job)
  job.place = as_text[job.priority] .. ',' .. as_text[job.tag] .. ','
    .. string.sub(job.member, 1, 16)
end

-- The job waits in the queue until `deadline`, which is text. It avoids the node of its last
-- attempt until `job.avoid_until`, text or nil.
function jobs.set_queued(job, deadline)
  job.deadline = deadline
  set_place(job)
  store(job, 'queued', job.avoid_until or '', deadline, '', job.head, job.rest)
end

-- The job backs off until `not_before`, and avoids the node of its last attempt until
-- `avoid_until`. Both are text.
function jobs.set_backing_off(job, not_before, avoid_until)
  set_place(job)
  store(job, 'backoff', not_before, avoid_until, '', job.head, job.rest)
end

-- The first fields of the core, which `load_header` reads.
local function core_head(job)
  if job.core_to then return string.sub(job.stored, job.core_at, job.core_to - 1) end
  return '{"session":"' .. job.session .. '","utterance":' .. job.utterance .. ',"target":"'
    .. job.target .. '","delivery_no":' .. job.delivery_no
    .. (job.finalized and ',"finalized":' .. job.finalized or '') .. ',"tp":' .. json.quote(job.tp)
end

-- Store the record as this call has loaded it.
function jobs.restore(job)
  if job.stored then write('SET', job.record, job.stored) else write('DEL', job.record) end
end

-- The job has ended. Its record stays until `job_retention` deletes it, without the fields that
-- only another attempt needs.
function jobs.set_ended(job, outcome, code)
  job.place = ''
  store(job, 'ended', '', '', outcome, core_head(job),
    json.optional(code) and ',"code":' .. json.quote(code) or '')
end
return jobs
