#!lua flags=allow-oom
-- remove_idle_consumers: remove the consumers of another program's group that have not called for a
-- time and have no unacknowledged entries, as processes that have ended leave them. A consumer that
-- calls again exists again.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used: the server has the time of their calls
--   group           text                   name of the consumer group
--   consumer        text                   the caller, which stays
--   idle_ms         0 to 86400000 ms       since the last call of a consumer
-- Reply: how many were removed
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the consumers of the group, of which at most 128 are removed; the groups of the log
-- include: groups
-- include: keys
-- include: validate
local idle_ms_min = validate.int(idle_ms, 0, 86400000)
if not idle_ms_min then return validate.invalid('idle_ms', '0 to 86400000 ms') end
if groups.is_of_system(group) then
  return validate.invalid('group', 'a consumer group of another program')
end
if not groups.find(keys.log, group) then return 0 end
return groups.remove_idle(keys.log, group, consumer, idle_ms_min, true)
