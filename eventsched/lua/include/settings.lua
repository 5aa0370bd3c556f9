-- settings: `settings.<name>` is a setting of the cell, a whole number. A setting that the cell
-- lacks, or that is no number, has its default: another program has changed it, or removed it. A
-- test compares the defaults with eventsched/schema/settings.py.
-- include: cache
-- include: call
-- include: keys
-- include: reply
local defaults = {
  pause_ms = 3000, audio_ms_max = 10000, audio_bytes_max = 512000, idle_ms = 60000,
  close_wait_ms = 30000, playback_ms = 30000, delivery_gap_timeout_ms = 30000,
  queue_timeout_ms = 10000, heartbeat_ms = 5000, node_lost_ms = 15000,
  node_retention_ms = 86400000, suspend_ms = 60000, retry_backoff_ms = 100, retry_avoid_ms = 2000,
  fast_failure_ms = 1000, failing_suspend_ms = 30000, failing_suspend_ms_max = 300000,
  session_retention_ms = 3600000, outbox_retention_ms = 300000, lease_base_ms = 30000,
  lease_factor_thousandths = 500, tenant_queue_max = 10000, tenant_outbox_bytes_max = 268435456,
  tenant_sessions_max = 40000, tenant_lag_max = 10000, memory_percent_max = 80,
  projection_lag_max = 50000, dispatch_queue_max = 10000, dead_letters_max = 10000,
  archive_lag_max = 1000000, archive_entries_max = 50000, archive_window_ms = 300000,
  log_keep_ms = 600000, log_retention_ms = 0, error_messages = 1, cache_live_state = 1,
  eager_dispatch = 1
}

local function read()
  local values = reply.by_name(redis.call('HGETALL', keys.settings))
  for name, value in pairs(values) do values[name] = tonumber(value) end
  for name, default in pairs(defaults) do values[name] = values[name] or default end
  return values
end

local cached = cache.register_single('settings', 'stable', read)
local fields = {}

-- The first setting that a call reads gives access to all: a further one is a lookup, not a call.
local function read_first(_, name)
  local values = cached.read_through()
  fields.__index = values
  return values[name]
end

call.on_begin(function() fields.__index = read_first end)
return setmetatable({}, fields)
