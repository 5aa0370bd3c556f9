#!lua flags=allow-oom
-- record_results: record the results that a node reports for its attempts, with fencing, at most
-- one result for each job, and delivery in order (rules 14, suspended nodes; 21, fencing; 23, one
-- result per job; 24, no speech; 25, ordered delivery).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   node            node name
--   epoch_arg       number
--   then per result, at most 16: job_key, attempt, status (ok|no_speech|failed), code,
--     retryable (0|1), feature, retry_in_ms (0 to 10000 ms, or empty),
--     body (empty, or a text as include/result_text describes it; at most 1,048,576 B; a text takes
--     less),
--     audio (at most 1,048,576 B; sound takes less), audio_sha256, error_type (of the exception of
--     the handler, or empty; at most 1,024 B), error_message (at most 1,024 B),
--     error_place (at most 1,024 B)
-- Reply: per result `ok` or `refused CODE key=value`
-- Refusals: JOB_UNKNOWN, NODE_MISMATCH, ATTEMPT_MISMATCH, LEASE_LOST, DUPLICATE_RESULT,
--   INVALID_MESSAGE
-- Events: ResultRecorded, ResultReplaced, ResultRefused, ResultDelivered, AttemptEnded, JobFailed,
--   JobDispatched, JobQueued, NodeSuspended, NodeDrained, SessionClosed
-- Bound: the results given, at most 16, and 16 held ones; 8 fills, the session's open outcomes and
--   the 1,024 language pairs of the node each
-- include: assign
-- include: attempts
-- include: call
-- include: classes
-- include: clock
-- include: damage
-- include: delivery
-- include: events
-- include: fencing
-- include: jobs
-- include: json
-- include: keys
-- include: node_failures
-- include: nodes
-- include: result_text
-- include: sessions
-- include: settings
-- include: strings
-- include: timers
-- include: validate
-- include: write
local body_max, code_max, audio_max, unreadable_max = 65536, 64, 512000, 3
local retry_in_ms_max = 10000
local error_max = { error_type = 256, error_message = 800, error_place = 400 }

local function ending_of(job, result)
  return { kind = result.status == 'ok' and 'result' or 'no_speech',
    code = json.optional(result.code), body = result.body, audio = result.audio,
    job = job.key, tp = job.tp, finalized = job.finalized }
end

-- A result with status ok or no_speech: the job ends, its outcome is delivered or held, and its
-- slot is filled.
local function record(job, result)
  node_failures.clear(job.node)
  local id, freed = delivery.record_result(job, result, ending_of(job, result), nodes.release_slot)
  if freed then assign.fill(freed, 'log/' .. id) end
end

-- Replace an empty result with the same token that is still held by a complete result. Returns
-- whether the result was replaced.
local function replace(job, result)
  local held = delivery.find_held(job.name, job.target, job.delivery_no)
  if not held or held.kind ~= 'no_speech' or result.status ~= 'ok' then return false end
  jobs.set_ended(job, 'ok', result.code)
  local id = call.or_else(jobs.restore, events.ResultReplaced, job, result)
  delivery.hold(job.name, job.target, job.delivery_no, ending_of(job, result), id)
  return true
end

-- The node is not chosen for the subject for a while (rule 14, suspended nodes). `subject` is a
-- feature, a language pair or `nodes.whole`, `reason` the code of the report. Returns whether the
-- node is suspended: the last node that can serve a requirement is never suspended for every job.
-- `share` bounds how many nodes are, as in `classes.may_suspend`.
local function suspend(job, subject, reason, suspend_ms, share)
  local registration = nodes.get(job.node)
  if not nodes.is_current(registration, job.epoch) then return false end
  if subject == nodes.whole and not classes.may_suspend(registration, share) then return false end
  local until_ms = clock.now() + suspend_ms
  timers.set(until_ms, 'suspension', job.node .. '|' .. subject)
  if not strings.set_of(registration.suspended)[subject] then
    local suspended = strings.split(registration.suspended)
    suspended[#suspended + 1] = subject
    nodes.set_suspended(registration, suspended)
  end
  local scope, name_of_subject = nodes.scope_of(subject)
  events.NodeSuspended(registration, scope, name_of_subject, reason, until_ms)
  return true
end

-- Whether every reader of the job's session can read the text of the result. A session without a
-- key has no encrypted text.
local function has_readable_text(job, result)
  local is_readable, is_encrypted = result_text.is_readable(result.body)
  if not is_readable or not is_encrypted then return is_readable end
  local s = sessions.get(job.name, true)
  return s ~= nil and json.optional(s.key) ~= nil
end

-- The text of the result cannot be read: the attempt fails, and another node may do better. The
-- third such result within the time of a suspension suspends the node, or a later one once other
-- nodes can serve its requirements.
local function fail_unreadable(job)
  local node_key, now = keys.of('node', job.node), clock.now()
  local stored = redis.call('HGET', node_key, 'unreadable') or ''
  local count, since = string.match(stored, '^(%d+)|(%d+)$')
  if not count or now - tonumber(since) > settings.suspend_ms then
    count, since = 0, clock.text()
  end
  count = tonumber(count) + 1
  if count >= unreadable_max
    and suspend(job, nodes.whole, 'RESULT_UNREADABLE', settings.suspend_ms) then
    write('HDEL', node_key, 'unreadable')
  else
    write('HSET', node_key, 'unreadable', count .. '|' .. since)
  end
  jobs.load_body(job)
  attempts.redispatch(job, 'failed', 'RESULT_UNREADABLE', '')
end

-- The node reports a retryable failure. A node that fails fast again and again is suspended for
-- every job, unless too many are. A further failure of an attempt that began before does not extend
-- the suspension.
local function suspend_if_failing(job)
  local suspend_ms, share = node_failures.count(job)
  if not suspend_ms then return end
  if strings.set_of(nodes.get(job.node).suspended)[nodes.whole] then return end
  if suspend(job, nodes.whole, 'ATTEMPTS_FAILED', suspend_ms, share) then
    node_failures.set_suspended(job)
  end
end

local function fail(job, result)
  jobs.load_body(job)
  if result.code == 'MODEL_NOT_AVAILABLE' then
    local subject = result.feature
    if subject == '' then
      subject = classes.pair_subject(job.source, job.target)
    elseif not strings.set_of(job.features)[subject] then
      return 'INVALID_MESSAGE field=feature limit=one of the job\'s features, or empty'
    end
    suspend(job, subject, result.code, settings.suspend_ms)
    attempts.redispatch(job, 'suspended', result.code, '', result)
  elseif result.retryable == '1' then
    -- The key of a session may be missing on each node: that is no fault of one.
    if result.code ~= 'KEY_MISSING' then suspend_if_failing(job) end
    attempts.redispatch(job, 'failed', result.code, '', result)
  else
    local freed = attempts.stop(job, 'failed', result.code, '', result)
    attempts.fail(job, result.code, '', result)
    if freed then assign.fill(freed, '') end
  end
  return nil
end

-- Why what the report says of the exception of the handler is refused, or nil.
local function error_refusal(result)
  for name, most in pairs(error_max) do
    if not validate.is_text(result[name], most) then
      return string.format('INVALID_MESSAGE field=%s limit=text of up to %d bytes', name, most)
    end
  end
  return nil
end

local function check(result, attempt)
  if not attempt then return 'INVALID_MESSAGE field=attempt limit=a whole number' end
  if result.status ~= 'ok' and result.status ~= 'no_speech' and result.status ~= 'failed' then
    return 'INVALID_MESSAGE field=status limit=ok, no_speech or failed'
  end
  if result.status == 'failed' and result.code == '' then
    return 'INVALID_MESSAGE field=code limit=a failure names its code'
  end
  if not validate.is_text(result.code, code_max) then
    return 'INVALID_MESSAGE field=code limit=text of up to 64 bytes'
  end
  if result.retryable ~= '0' and result.retryable ~= '1' then
    return 'INVALID_MESSAGE field=retryable limit=0 or 1'
  end
  if result.feature ~= '' and not validate.is_name(result.feature) then
    return 'INVALID_MESSAGE field=feature limit=a name or empty'
  end
  if result.retry_in_ms ~= '' and not validate.int(result.retry_in_ms, 0, retry_in_ms_max) then
    return 'INVALID_MESSAGE field=retry_in_ms limit=0 to 10000 ms'
  end
  if #result.body > body_max then return 'INVALID_MESSAGE field=body limit=65536 B' end
  if #result.audio > audio_max then return 'INVALID_MESSAGE field=audio limit=512000 B' end
  if #result.audio > 0 and result.status ~= 'ok' then
    return 'INVALID_MESSAGE field=audio limit=goes with ok only'
  end
  if (#result.audio > 0) ~= validate.is_hex(result.audio_sha256, 64) then
    return 'INVALID_MESSAGE field=audio_sha256 limit=64 hex digits with audio, empty without'
  end
  if result.error_type == '' and result.error_message == '' and result.error_place == '' then
    return nil
  end
  return error_refusal(result)
end

-- Why the result is refused, or nil.
local function take(node, epoch, result)
  local job, attempt = jobs.load_header(result.job_key), validate.int(result.attempt, 1, 1e6)
  if not job then return 'JOB_UNKNOWN' end
  local refusal = check(result, attempt)
  if refusal then return refusal end
  refusal = fencing.refusal(job, node, epoch, attempt)
  if refusal == 'DUPLICATE_RESULT' and has_readable_text(job, result)
    and replace(job, result) then
    return nil
  end
  if refusal then
    fencing.record_refusal(job, node, epoch, attempt, 'result', refusal)
    return refusal
  end
  if result.status == 'failed' then return fail(job, result) end
  if not has_readable_text(job, result) then
    fail_unreadable(job)
    return nil
  end
  record(job, result)
  return nil
end

-- In each call:
local epoch = validate.int(epoch_arg, 0, 1e9)
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not validate.is_name(node) then return validate.invalid('node', 'a name') end
local replies = {}
for i, result in each_result(ARGV) do
  local refusal, damaged = damage.guard(take, node, epoch, result)
  refusal = refusal or damaged
  replies[i] = refusal and 'refused ' .. refusal or 'ok'
end
local registration = nodes.find(node)
if nodes.is_current(registration, epoch) then nodes.trim_inbox(registration) end
return replies
