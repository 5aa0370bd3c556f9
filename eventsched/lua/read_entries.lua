#!lua flags=no-writes
-- read_entries: entries of the log by their ids, as the index of a session lists them.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   then per entry, at most 1000: id
-- Reply: the entries that still exist, in the order of the ids
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the arguments, at most 1000
-- include: keys
local entries = {}
for _, entry in each_entry(ARGV) do
  entries[#entries + 1] = redis.call('XRANGE', keys.log, entry.id, entry.id)[1]
end
return entries
