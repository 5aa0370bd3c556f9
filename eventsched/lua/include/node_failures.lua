-- node_failures: the attempts in a row that failed fast on a node (rule 14, suspended nodes). Five
-- of them, of at least two sessions, show that the node is broken. The field `failures` of the node
-- is `count|session|has_other|suspensions`, or empty: `session` is that of the first failure,
-- `has_other` is 1 if another session had a failure, `suspensions` counts those since the last
-- success.
-- include: cache
-- include: clock
-- include: keys
-- include: settings
-- include: write
local node_failures = {}
local failures_max, doublings_max = 5, 20

local stored = cache.register('node_failures', 'live', function(node)
  return redis.call('HGET', keys.of('node', node), 'failures') or ''
end)

local function store(node, failures)
  write('HSET', keys.of('node', node), 'failures', failures)
  stored.put(node, failures)
end

local function read(node)
  local count, session, has_other, suspensions =
    string.match(stored.read_through(node), '^(%d+)|([^|]*)|([01])|(%d+)$')
  return tonumber(count) or 0, session, has_other == '1', tonumber(suspensions) or 0
end

local function format(count, session, has_other, suspensions)
  return string.format('%d|%s|%d|%d', count, session, has_other and 1 or 0, suspensions)
end

-- An attempt of the job has failed on the node, with a retryable code. If it failed fast, it
-- counts. Returns for how long the node should be suspended, in ms; nil if it should not.
function node_failures.count(job)
  if clock.now() - tonumber(job.at) > settings.fast_failure_ms then return nil end
  local count, session, has_other, suspensions = read(job.node)
  session = session or job.session
  count, has_other = math.min(count + 1, failures_max), has_other or session ~= job.session
  store(job.node, format(count, session, has_other, suspensions))
  if count < failures_max or not has_other then return nil end
  local doublings = math.min(suspensions, doublings_max)
  return math.min(settings.failing_suspend_ms * 2 ^ doublings, settings.failing_suspend_ms_max)
end

-- The node is suspended because of its failures: the next failure suspends it for twice as long.
function node_failures.set_suspended(node)
  local count, session, has_other, suspensions = read(node)
  store(node, format(count, session, has_other, suspensions + 1))
end

-- The node has succeeded, or is registered again.
function node_failures.clear(node)
  if stored.read_through(node) ~= '' then store(node, '') end
end
return node_failures
