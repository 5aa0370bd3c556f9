-- fencing: whether a node may report on an attempt (rules 21, fencing; 23, one result per job). The
-- fencing token is (node, epoch, attempt).
-- include: call
-- include: events
-- include: jobs
-- include: nodes
local fencing = {}
local refused_max = 16
local ended_by_the_server = { JOB_TIMEOUT = true, NODE_LOST = true }

-- Why the token is refused, or nil if it is the current token of a running job.
function fencing.refusal(job, node, epoch, attempt)
  if job.node ~= node or job.epoch ~= epoch then return 'NODE_MISMATCH' end
  if job.status == 'queued' or job.status == 'backoff' then return 'LEASE_LOST' end
  if job.attempt ~= attempt then return 'ATTEMPT_MISMATCH' end
  if job.status == 'ended' then
    -- If the job ended without a report with this token, the report is no duplicate: it is late.
    local is_late = job.outcome == 'missing'
      or job.outcome == 'failed' and ended_by_the_server[jobs.failure_code(job)]
    return is_late and 'LEASE_LOST' or 'DUPLICATE_RESULT'
  end
  -- A registration that has ended holds no leases, not even those that are not requeued yet.
  if not nodes.is_current(nodes.get(node), epoch) then return 'LEASE_LOST' end
  return nil
end

-- A refused report changes nothing, but the log records it: once for each token and kind of report,
-- and at most 16 a job, because a handler can send partial results of an ended attempt in a loop.
-- The job record has the recorded ones as `node/epoch/attempt/kind`, separated by commas.
function fencing.record_refusal(job, node, epoch, attempt, what, code)
  local mark = string.format('%s/%d/%d/%s,', node, epoch, attempt, what)
  if string.find(',' .. job.refused, ',' .. mark, 1, true) then return end
  local _, count = string.gsub(job.refused, ',', '')
  if count >= refused_max then return end
  jobs.set_refused(job, job.refused .. mark)
  call.or_else(jobs.restore, events.ResultRefused, job, node, epoch, attempt, what, code)
end
return fencing
