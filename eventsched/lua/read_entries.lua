#!lua flags=no-writes
-- read_entries: entries of the log by their ids, as a session's trail lists them.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     not used
--   then log ids
-- Reply: the entries that are still there, in the order of the ids
-- Refusals: none
-- Events: none
-- Bound: the arguments, at most 1,000
local log_key = KEYS[1]
local now_arg = ARGV[1]
local found = {}
for i = 2, #ARGV do
  found[#found + 1] = redis.call('XRANGE', log_key, ARGV[i], ARGV[i])[1]
end
return found
