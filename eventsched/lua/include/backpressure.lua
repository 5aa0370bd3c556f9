-- backpressure: whether the cell, or a tenant, accepts more (rules 18, fair waiting; 33, limits).
--
-- Lag of a tenant. The hash `tenant_lag` has the tenants that are refused because the projections
-- have not folded too many of their log entries, with the number of these entries. The role
-- `backpressure` counts them in the log once a second and sets it; no other call writes it.
-- include: cache
-- include: keys
-- include: numbers
-- include: outbox
-- include: queue
-- include: settings
-- include: write
local backpressure = {}

local cached = cache.register_single('is_backpressure_active', 'stable', function()
  return (redis.call('HGET', keys.counters, 'backpressure') or '') ~= ''
end)

local tenant_lag = cache.register('tenant_lag', 'live', function(tenant)
  return tonumber(redis.call('HGET', keys.tenant_lag, tenant)) or 0
end)

-- The tenant is refused, with this many log entries that are not folded; 0: it is served.
function backpressure.set_tenant_lag(tenant, entries)
  if entries > 0 then
    write('HSET', keys.tenant_lag, tenant, numbers.text[entries])
  else
    write('HDEL', keys.tenant_lag, tenant)
  end
  tenant_lag.put(tenant, entries)
end

-- Whether the cell refuses producers and nodes.
function backpressure.is_active()
  return cached.read_through()
end

-- Why producers of the tenant are refused, or nil.
function backpressure.refusal(tenant)
  if backpressure.is_active() then return 'BACKPRESSURE retry_after_ms=1000' end
  if queue.tenant_count(tenant) >= settings.tenant_queue_max then
    return 'BACKPRESSURE retry_after_ms=' .. string.format('%d', settings.queue_timeout_ms / 2)
  end
  if outbox.tenant_bytes(tenant) >= settings.tenant_outbox_bytes_max then
    return 'BACKPRESSURE retry_after_ms=1000 cause=tenant_outbox tenant=' .. tenant
  end
  local lag = tenant_lag.read_through(tenant)
  if lag > 0 then
    return 'BACKPRESSURE retry_after_ms=1000 cause=tenant_lag tenant=' .. tenant .. ' seen='
      .. numbers.text[lag] .. ' limit=' .. numbers.text[settings.tenant_lag_max]
  end
  return nil
end
return backpressure
