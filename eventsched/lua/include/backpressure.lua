-- backpressure: whether the cell, or a tenant, accepts more (rules 18, fair waiting; 33, limits).
-- include: cache
-- include: keys
-- include: outbox
-- include: queue
-- include: settings
local backpressure = {}

local cached = cache.register_single('is_backpressure_active', 'stable', function()
  return (redis.call('HGET', keys.counters, 'backpressure') or '') ~= ''
end)

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
  return nil
end
return backpressure
