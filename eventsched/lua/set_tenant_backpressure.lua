#!lua flags=allow-oom
-- set_tenant_backpressure: record that a tenant is refused from now on because of a backlog, or
-- served again. Producers are refused by the backlog itself.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   tenant          name
--   reason          tenant_queue | tenant_outbox | tenant_lag
--   is_active       0 | 1
--   seen            number                 the measured backlog
--   limit           number                 the limit of the backlog
-- Reply: started | ended | unchanged
-- Refusals: INVALID_MESSAGE
-- Events: BackpressureStarted, BackpressureEnded
-- Bound: one tenant
-- include: call
-- include: events
-- include: keys
-- include: validate
-- include: write
local reasons = { tenant_queue = true, tenant_outbox = true, tenant_lag = true }
local seen_no, limit_no = validate.int(seen, 0, 1e14), validate.int(limit, 0, 1e14)
if not validate.is_name(tenant) then return validate.invalid('tenant', 'a name') end
if not reasons[reason] then
  return validate.invalid('reason', 'tenant_queue, tenant_outbox or tenant_lag')
end
if is_active ~= '0' and is_active ~= '1' then return validate.invalid('is_active', '0 or 1') end
if not seen_no or not limit_no then return validate.invalid('seen', 'whole numbers below 1e14') end
local field = tenant .. '|' .. reason
local was_active = redis.call('HEXISTS', keys.tenant_refused, field) == 1
if was_active == (is_active == '1') then return 'unchanged' end
if was_active then
  write('HDEL', keys.tenant_refused, field)
  call.or_else(function() write('HSET', keys.tenant_refused, field, seen) end,
    events.BackpressureEnded, reason, seen_no, limit_no, tenant)
  return 'ended'
end
write('HSET', keys.tenant_refused, field, seen)
call.or_else(function() write('HDEL', keys.tenant_refused, field) end,
  events.BackpressureStarted, reason, seen_no, limit_no, tenant)
return 'started'
