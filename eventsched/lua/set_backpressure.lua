#!lua flags=allow-oom
-- set_backpressure: refuse producers and new nodes from now on, or serve them again.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   reason          memory | group | archive | dead_letters
--   is_active       0 | 1
--   seen            number                 the measured value
--   limit           number                 the limit of the value
-- Reply: started | ended | unchanged
-- Refusals: INVALID_MESSAGE
-- Events: BackpressureStarted, BackpressureEnded
-- Bound: four reasons
-- include: cache
-- include: call
-- include: events
-- include: keys
-- include: strings
-- include: validate
local reasons = { memory = true, group = true, archive = true, dead_letters = true }
local seen_no, limit_no = validate.int(seen, 0, 1e14), validate.int(limit, 0, 1e14)
if not reasons[reason] then
  return validate.invalid('reason', 'memory, group, archive or dead_letters')
end
if is_active ~= '0' and is_active ~= '1' then return validate.invalid('is_active', '0 or 1') end
if not seen_no or not limit_no then return validate.invalid('seen', 'whole numbers below 1e14') end
local stored = redis.call('HGET', keys.counters, 'backpressure') or ''
local active = strings.set_of(stored)
if (active[reason] or false) == (is_active == '1') then return 'unchanged' end
active[reason] = is_active == '1' or nil
local list = {}
for name in pairs(active) do list[#list + 1] = name end
table.sort(list)
cache.write_stable('HSET', keys.counters, 'backpressure', table.concat(list, ','))
local append = is_active == '1' and events.BackpressureStarted or events.BackpressureEnded
call.or_else(function()
  cache.write_stable('HSET', keys.counters, 'backpressure', stored)
end, append, reason, seen_no, limit_no)
return is_active == '1' and 'started' or 'ended'
