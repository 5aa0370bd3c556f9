-- backpressure: whether the cell, or a tenant, accepts more (rules 18, fair waiting; 33, limits).
--
-- Lag of a tenant. The hash `tenant_lag` has the tenants that are refused because the projections
-- have not folded too many of their log entries, with the number of these entries. The role
-- `backpressure` counts them in the log once a second and sets it; no other call writes it.
--
-- A refusal names its cause: of a cell the first of the active reasons, of a tenant the backlog
-- that has reached its limit. The hash `tenant_refused` has the backlogs, as `<tenant>|<reason>`,
-- for which the log says that a tenant is refused. Nothing is decided by it.
-- include: cache
-- include: keys
-- include: numbers
-- include: outbox
-- include: queue
-- include: settings
-- include: write
local backpressure = {}

local reasons = cache.register_single('backpressure_reasons', 'stable', function()
  return redis.call('HGET', keys.counters, 'backpressure') or ''
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
  return reasons.read_through() ~= ''
end

-- Why producers and nodes of the cell are refused, or nil.
function backpressure.cell_refusal()
  local active = reasons.read_through()
  if active == '' then return nil end
  return 'BACKPRESSURE retry_after_ms=1000 cause=' .. string.match(active, '^[^,]+')
end

local function tenant_refusal(tenant, cause, retry_after_ms, seen, limit)
  return 'BACKPRESSURE retry_after_ms=' .. numbers.text[retry_after_ms] .. ' cause=' .. cause
    .. ' tenant=' .. tenant .. ' seen=' .. numbers.text[seen] .. ' limit=' .. numbers.text[limit]
end

-- Why producers of the tenant are refused, or nil.
function backpressure.refusal(tenant)
  local cell_refusal = backpressure.cell_refusal()
  if cell_refusal then return cell_refusal end
  local count, count_max = queue.tenant_count(tenant), settings.tenant_queue_max
  if count >= count_max then
    return tenant_refusal(tenant, 'tenant_queue', math.floor(settings.queue_timeout_ms / 2), count,
      count_max)
  end
  local bytes, bytes_max = outbox.tenant_bytes(tenant), settings.tenant_outbox_bytes_max
  if bytes >= bytes_max then
    return tenant_refusal(tenant, 'tenant_outbox', 1000, bytes, bytes_max)
  end
  local lag = tenant_lag.read_through(tenant)
  if lag > 0 then
    return tenant_refusal(tenant, 'tenant_lag', 1000, lag, settings.tenant_lag_max)
  end
  return nil
end

-- Why the tenant may not open a session, or nil. The sets `tenant_sessions` have the sessions that
-- are not retired.
function backpressure.sessions_refusal(tenant)
  local count = redis.call('SCARD', keys.of('tenant_sessions', tenant))
  local count_max = settings.tenant_sessions_max
  if count < count_max then return nil end
  return tenant_refusal(tenant, 'tenant_sessions', 1000, count, count_max)
end
return backpressure
