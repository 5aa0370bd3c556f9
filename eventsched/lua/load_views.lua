#!lua flags=no-writes
-- load_views: records of one read model.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     not used
--   projection      name
--   build           <version>.<build>
--   then per record: its entity's id
-- Reply: per record its fields and values in a list, which is empty where there is none
-- Refusals: none
-- Events: none
-- Bound: the arguments, at most 128
local log_key = KEYS[1]
local now_arg, projection, build = ARGV[1], ARGV[2], ARGV[3]
-- include: keys

local found = {}
for i = 4, #ARGV do
  found[i - 3] = redis.call('HGETALL', keys.of('view', projection .. ':' .. build, ARGV[i]))
end
return found
