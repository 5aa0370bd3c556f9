#!lua flags=allow-oom
-- set_tenant_lag: refuse the producers of a tenant from now on, because too many of its log entries
-- are not folded, or serve them again.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   tenant          name
--   entries         number                 its log entries that are not folded; 0: serve it again
-- Reply: ok
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: one tenant
-- include: backpressure
-- include: validate
local entries_no = validate.int(entries, 0, 1e14)
if not validate.is_name(tenant) then return validate.invalid('tenant', 'a name') end
if not entries_no then return validate.invalid('entries', 'a whole number below 1e14') end
backpressure.set_tenant_lag(tenant, entries_no)
return 'ok'
