#!lua flags=no-writes
-- read_entries: entries of the log by their ids, as a session's trail lists them.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     not used
--   then per entry: id
-- Reply: the entries that are still there, in the order of the ids
-- Refusals: none
-- Events: none
-- Bound: the arguments, at most 1,000
-- include: keys
local found = {}
for _, entry in each_entry(ARGV) do
  found[#found + 1] = redis.call('XRANGE', keys.log, entry.id, entry.id)[1]
end
return found
