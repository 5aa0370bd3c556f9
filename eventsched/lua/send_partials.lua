#!lua flags=allow-oom
-- send_partials: append partial results for their recipients. Each recipient keeps the newest 32;
-- they are stored nowhere else (rules 21, fencing; 26, partial results).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   node            node name
--   epoch_arg       number
--   then per partial, at most 32: job_key, attempt, body (at most 1,048,576 B; a text takes less)
-- Reply: per partial `ok` or `refused CODE key=value`
-- Refusals: JOB_UNKNOWN, NODE_MISMATCH, ATTEMPT_MISMATCH, LEASE_LOST, DUPLICATE_RESULT,
--   INVALID_MESSAGE
-- Events: ResultRefused; none under backpressure, when the memory of the log must not grow
-- Bound: the partials given, at most 32; 32 recipients and the session's open outcomes each
-- include: backpressure
-- include: damage
-- include: delivery
-- include: fencing
-- include: jobs
-- include: validate
local body_max = 65536
local epoch = validate.int(epoch_arg, 0, 1e9)
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not validate.is_name(node) then return validate.invalid('node', 'a name') end

-- Why the partial is refused, or nil.
local function take(partial)
  local attempt = validate.int(partial.attempt, 1, 1e6)
  if not attempt then return 'INVALID_MESSAGE field=attempt limit=a whole number' end
  if #partial.body > body_max then return 'INVALID_MESSAGE field=body limit=65536 B' end
  local job = jobs.load(partial.job_key)
  if not job then return 'JOB_UNKNOWN' end
  local refusal = fencing.refusal(job, node, epoch, attempt)
  if refusal then
    if not backpressure.is_active() then
      fencing.record_refusal(job, node, epoch, attempt, 'partial', refusal)
    end
    return refusal
  end
  local outcome = delivery.find_outcome(job.name, job.target, job.delivery_no)
  delivery.publish_partial(job.name, outcome, { session = job.session,
    utterance = tonumber(job.utterance), target = job.target, attempt = attempt }, partial.body)
  return nil
end

local replies = {}
for i, partial in each_partial(ARGV) do
  local refusal, damaged = damage.guard(take, partial)
  refusal = refusal or damaged
  replies[i] = refusal and 'refused ' .. refusal or 'ok'
end
return replies
