#!lua flags=no-writes
-- load_views: records of one read model.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   projection      name
--   revision        <version>.<revision>
--   then per record, at most 256: entity (its id, at most 1,024 B)
-- Reply: per record its fields and values in a list, which is empty for a missing record
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the arguments, at most 256
-- include: keys
local records = {}
for i, record in each_record(ARGV) do
  records[i] = redis.call('HGETALL', keys.of('view', projection .. ':' .. revision, record.entity))
end
return records
