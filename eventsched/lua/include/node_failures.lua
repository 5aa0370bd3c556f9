-- node_failures: the attempts in a row that failed fast on a node (rule 14, suspended nodes). Five
-- of them, of at least two sessions, show that the node is broken, or that a tenant sends what
-- breaks handlers. So failures suspend a small part of the nodes at a time, and those of one tenant
-- alone a smaller one. The field `failures` of the node is
-- `count|session|tenant|spread|suspensions`, or empty: session and tenant are those of the first
-- failure, `spread` says whether all failures have its session (`session`) or its tenant
-- (`sessions`), or not (`tenants`), `suspensions` counts those since the last success.
-- include: cache
-- include: clock
-- include: keys
-- include: settings
-- include: write
local node_failures = {}
local failures_max, doublings_max = 5, 20
-- Of so many nodes that serve a requirement, failures of these jobs suspend one at a time.
local shares = { sessions = 8, tenants = 3 }
local pattern = '^(%d+)|([^|]*)|([^|]*)|(%a+)|(%d+)$'

local stored = cache.register('node_failures', 'live', function(node)
  return redis.call('HGET', keys.of('node', node), 'failures') or ''
end)

local function store(node, ...)
  local failures = string.format('%d|%s|%s|%s|%d', ...)
  write('HSET', keys.of('node', node), 'failures', failures)
  stored.put(node, failures)
end

-- The parts of the field; of an empty one, those of a row that begins with the job.
local function read(node, job)
  local count, session, tenant, spread, suspensions =
    string.match(stored.read_through(node), pattern)
  if not count then return 0, job.session, job.tenant, 'session', 0 end
  return tonumber(count), session, tenant, spread, tonumber(suspensions)
end

local function spread_with(job, session, tenant, spread)
  if job.tenant ~= tenant then return 'tenants' end
  return job.session ~= session and spread == 'session' and 'sessions' or spread
end

-- An attempt of the job has failed on the node, with a retryable code. If it failed fast, it
-- counts. Returns for how long the node should be suspended, in ms, and the share of
-- `classes.may_suspend`; nil if it should not.
function node_failures.count(job)
  if clock.now() - tonumber(job.at) > settings.fast_failure_ms then return nil end
  local count, session, tenant, spread, suspensions = read(job.node, job)
  count, spread = math.min(count + 1, failures_max), spread_with(job, session, tenant, spread)
  store(job.node, count, session, tenant, spread, suspensions)
  if count < failures_max or not shares[spread] then return nil end
  local doublings = math.min(suspensions, doublings_max)
  return math.min(settings.failing_suspend_ms * 2 ^ doublings, settings.failing_suspend_ms_max),
    shares[spread]
end

-- The node is suspended because of failures, the last of which is of the job: the next failure
-- suspends it for twice as long.
function node_failures.set_suspended(job)
  local count, session, tenant, spread, suspensions = read(job.node, job)
  store(job.node, count, session, tenant, spread, suspensions + 1)
end

-- The node has succeeded, or is registered again.
function node_failures.clear(node)
  if stored.read_through(node) == '' then return end
  write('HSET', keys.of('node', node), 'failures', '')
  stored.put(node, '')
end
return node_failures
