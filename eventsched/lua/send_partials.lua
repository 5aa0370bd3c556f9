#!lua flags=allow-oom
-- send_partials: what is heard so far goes to the listeners at once and nowhere else (rules 21, 26).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   node            node name
--   epoch_arg       number
--   then per partial, at most 64: job_key, attempt, body
-- Reply: per partial `ok` or `refused CODE key=value`
-- Refusals: JOB_UNKNOWN, NODE_MISMATCH, ATTEMPT_MISMATCH, LEASE_LOST, DUPLICATE_RESULT,
--   INVALID_MESSAGE
-- Events: ResultRefused
-- Bound: the partials given, at most 64; 32 recipients and the session's open outcomes each
local body_max = 65536
-- include: delivery
-- include: fencing
-- include: jobs
-- include: validate
local epoch = validate.int(epoch_arg, 0, 1e9)
if not epoch then return validate.invalid('epoch', 'a whole number') end

local function take(job_key, attempt, body)
  if not attempt then return 'INVALID_MESSAGE field=attempt limit=a whole number' end
  if #body > body_max then return 'INVALID_MESSAGE field=body limit=65536 B' end
  local job = jobs.load(job_key)
  if not job then return 'JOB_UNKNOWN' end
  local why = fencing.refusal(job, node, epoch, attempt)
  if why then
    fencing.record_refusal(job, node, epoch, attempt, 'partial', why)
    return why
  end
  local outcome = delivery.find_outcome(job.name, job.target, job.delivery_no)
  local d = { session = job.session, utterance = tonumber(job.utterance), target = job.target,
    attempt = attempt }
  delivery.publish_partial(job.name, job.target, outcome, d, body)
  return nil
end

local replies = {}
for i, partial in each_partial(ARGV) do
  local why = take(partial.job_key, validate.int(partial.attempt, 1, 1e6), partial.body)
  replies[i] = why and 'refused ' .. why or 'ok'
end
return replies
