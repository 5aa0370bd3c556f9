-- fencing: whether a node may report on an attempt (rules 21, fencing; 23, one result per job). The
-- fencing token is (node, epoch, attempt).
-- include: events
-- include: jobs
-- include: nodes
local fencing = {}
local ended_by_the_server = { JOB_TIMEOUT = true, NODE_LOST = true }

-- Why the token is refused, or nil if it is the current token of a running job.
function fencing.refusal(job, node, epoch, attempt)
  if job.node ~= node or job.epoch ~= epoch then return 'NODE_MISMATCH' end
  if job.status == 'queued' then return 'LEASE_LOST' end
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

-- A refused report changes nothing, but the log records it.
function fencing.record_refusal(job, node, epoch, attempt, what, code)
  events.ResultRefused(job, node, epoch, attempt, what, code)
end
return fencing
