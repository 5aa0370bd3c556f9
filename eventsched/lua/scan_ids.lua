#!lua flags=no-writes
-- scan_ids: one step through the ids of a kind of key, as they are stored.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   kind            as in eventsched/schema/keys.py; with parts of the id, joined by colon
--   cursor          end of the last step; 0 to begin
-- Reply: [cursor of the next step (0: done), ids]
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: 512 keys scanned
-- include: keys
local scanned_max = 512

local prefix = keys.of(kind, '')
local page = redis.call('SCAN', cursor, 'MATCH', prefix .. '*', 'COUNT', scanned_max)
local ids = {}
for i, key in ipairs(page[2]) do ids[i] = string.sub(key, #prefix + 1) end
return { page[1], ids }
