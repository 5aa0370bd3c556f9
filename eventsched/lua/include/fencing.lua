-- fencing: who may still speak for a job (rules 21, 23). The token is (node, epoch, attempt).
-- include: events
-- include: jobs
-- include: nodes
local fencing = {}
local taken = { JOB_TIMEOUT = true, NODE_LOST = true }

-- Why this token no longer counts, or nil when it is the current one of a running job.
function fencing.refusal(job, node, epoch, attempt)
  if job.node ~= node or job.epoch ~= epoch then return 'NODE_MISMATCH' end
  if job.status == 'queued' then return 'LEASE_LOST' end
  if job.attempt ~= attempt then return 'ATTEMPT_MISMATCH' end
  if job.status == 'ended' then
    -- Ended without a word of this token: its result would be the first, but comes too late.
    local is_taken = job.outcome == 'missing' or job.outcome == 'failed' and taken[jobs.failure_code(job)]
    return is_taken and 'LEASE_LOST' or 'DUPLICATE_RESULT'
  end
  -- A registration that is over holds nothing, even what nobody has dispatched again yet.
  if not nodes.is_current(nodes.get(node), epoch) then return 'LEASE_LOST' end
  return nil
end

-- A stale message has no effect, and is on record.
function fencing.record_refusal(job, node, epoch, attempt, what, code)
  events.ResultRefused(job, node, epoch, attempt, what, code)
end
return fencing
