-- jobs: the job record. Its existence is the idempotency key (rules 10, 11).
-- `core` is the JSON that never changes: what an assignment says about the job.
-- include: keys
-- include: write
local jobs = {}

-- A job is the table of the fields that do not change, with their JSON beside them.
local function of_core(key, core, core_json)
  core.key, core.core = key, core_json
  core.services = table.concat(core.services or {}, ',')
  return core
end

function jobs.create(key, core)
  return of_core(key, core, cjson.encode(core))
end

function jobs.load(key)
  local kept = redis.call('HMGET', keys.of('job', key), 'status', 'attempt', 'node', 'epoch',
    'core', 'priority', 'tag', 'member', 'deadline', 'dispatched', 'outcome', 'code')
  if not kept[1] then return nil end
  local job = of_core(key, cjson.decode(kept[5]), kept[5])
  job.status, job.attempt = kept[1], tonumber(kept[2])
  job.node, job.epoch = kept[3], tonumber(kept[4])
  job.priority = tonumber(kept[6]) or job.priority
  job.tag, job.member = tonumber(kept[7]), kept[8] or nil
  job.deadline_ms, job.dispatched_ms = tonumber(kept[9]), tonumber(kept[10])
  job.outcome, job.code = kept[11] or nil, kept[12] or nil
  return job
end

-- The job takes no further part: nothing but its end is remembered, until its session retires.
function jobs.finish(job, outcome, code)
  job.status, job.outcome, job.code = 'ended', outcome, code
  write('HSET', keys.of('job', job.key), 'status', 'ended', 'outcome', outcome,
    'attempt', job.attempt, 'code', code or '')
end
