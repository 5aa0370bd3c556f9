#!lua flags=allow-oom
-- drop_session_indexes: delete the indexes of sessions whose last entry has been trimmed. The call
-- reads only the sessions whose indexes end before the log begins. Any number of callers may run at
-- once; what a failed call leaves, the next call deletes.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
-- Reply: how many were deleted; 0 if no more are left
-- Refusals: INVALID_MESSAGE
-- Events: none (trimming has appended its own)
-- Bound: 256 sessions
-- include: keys
-- include: write
local sessions_max = 256

local first = redis.call('XRANGE', keys.log, '-', '+', 'COUNT', 1)[1]
if not first then return 0 end
-- An index that ends in the millisecond of the first entry stays until more is trimmed.
local before = '(' .. string.match(first[1], '^%d+')
local names = redis.call('ZRANGEBYSCORE', keys.session_index_ends, '-inf', before, 'LIMIT', 0,
  sessions_max)
if not names[1] then return 0 end
local indexes = {}
for i, name in ipairs(names) do indexes[i] = keys.of('session_index', name) end
write('UNLINK', unpack(indexes))
write('ZREM', keys.session_index_ends, unpack(names))
return #names
