#!lua flags=no-writes
-- read_views: records of one live read model, together with its checkpoint.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   set             name
--   projection      name
--   then per record, at most 4096: entity (its id, at most 1,024 B)
-- Reply: [checkpoint, live revision or empty, per record its fields and values in a list]
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the records given, at most 4096
-- include: keys
local live = redis.call('GET', keys.of('active_revision', projection)) or ''
local views = { redis.call('GET', keys.of('checkpoint', set)) or '0-0', live }
for i, record in each_record(ARGV) do
  views[i + 2] = redis.call('HGETALL', keys.of('view', projection .. ':' .. live, record.entity))
end
return views
