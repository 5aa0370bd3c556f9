#!lua flags=allow-oom
-- set_backpressure: refuse producers and new nodes from now on, or serve them again.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   reason          memory | group | archive | dead_letters
--   raised          0 | 1
--   seen            number                 what was measured
--   limit           number                 what it is compared with
-- Reply: raised | lifted | kept
-- Refusals: INVALID_MESSAGE
-- Events: BackpressureStarted, BackpressureEnded
-- Bound: four reasons
-- include: cache
-- include: events
-- include: keys
-- include: strings
-- include: validate
local reasons = { memory = true, group = true, archive = true, dead_letters = true }
local seen_no, limit_no = validate.int(seen, 0, 1e14), validate.int(limit, 0, 1e14)
if not reasons[reason] then
  return validate.invalid('reason', 'memory, group, archive or dead_letters')
end
if raised ~= '0' and raised ~= '1' then return validate.invalid('raised', '0 or 1') end
if not seen_no or not limit_no then return validate.invalid('seen', 'whole numbers below 1e14') end
local set = strings.set_of(redis.call('HGET', keys.counters, 'pressure') or '')
if (set[reason] or false) == (raised == '1') then return 'kept' end
set[reason] = raised == '1' or nil
local list = {}
for name in pairs(set) do list[#list + 1] = name end
table.sort(list)
cache.write_stable('HSET', keys.counters, 'pressure', table.concat(list, ','))
if raised == '1' then
  events.BackpressureStarted(reason, seen_no, limit_no)
  return 'raised'
end
events.BackpressureEnded(reason, seen_no, limit_no)
return 'lifted'
