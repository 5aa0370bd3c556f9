#!lua flags=no-writes
-- load_views: records of one read model.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     not used
--   projection      name
--   build           <version>.<build>
--   then per record: its entity's id
-- Reply: per record its `v` (msgpack), or nothing where there is none
-- Refusals: none
-- Events: none
-- Bound: the arguments, at most 4,000
local log_key = KEYS[1]
local now_arg, projection, build = ARGV[1], ARGV[2], ARGV[3]
-- include: keys

local found, of_build = {}, projection .. ':' .. build
for i = 4, #ARGV do
  found[i - 3] = redis.call('HGET', keys.of('view', of_build, ARGV[i]), 'v')
end
return found
