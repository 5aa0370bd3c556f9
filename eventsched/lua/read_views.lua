#!lua flags=no-writes
-- read_views: records of one live read model, together with its checkpoint.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   set             name
--   projection      name
--   then per record: entity (its id)
-- Reply: [checkpoint, live revision or empty, per record its fields and values in a list]
-- Refusals: none
-- Events: none
-- Bound: the arguments
-- include: keys
local live = redis.call('GET', keys.of('active_revision', projection)) or ''
local views = { redis.call('GET', keys.of('checkpoint', set)) or '0-0', live }
for i, record in each_record(ARGV) do
  views[i + 2] = redis.call('HGETALL', keys.of('view', projection .. ':' .. live, record.entity))
end
return views
