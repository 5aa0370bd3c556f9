#!lua flags=allow-oom
-- drop_session_indexes: delete the indexes of sessions whose last entry has been trimmed.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   then per session, at most 1000: name
-- Reply: how many were deleted
-- Refusals: INVALID_MESSAGE
-- Events: none (trimming has appended its own)
-- Bound: the arguments, at most 1000
-- include: entry_ids
-- include: keys
-- include: write
local first = redis.call('XRANGE', keys.log, '-', '+', 'COUNT', 1)[1]
if not first then return 0 end
local count = 0
for _, session in each_session(ARGV) do
  local index = keys.of('session_index', session.name)
  local last = redis.call('LINDEX', index, -1)
  if last and entry_ids.precedes(last, first[1]) then
    write('UNLINK', index)
    count = count + 1
  end
end
return count
