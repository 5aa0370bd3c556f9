#!lua flags=no-writes
-- scan_kind: one step through the ids of a kind of key: what is stored, whoever knows of it.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     not used
--   kind            as in eventsched/schema/keys.py; with parts of the id, joined by colon
--   cursor          where the last step ended; 0 to begin
-- Reply: [cursor of the next step (0: done), ids]
-- Refusals: none
-- Events: none
-- Bound: 512 keys looked at
local looked_max = 512
-- include: keys

local start = keys.of(kind, '')
local found = redis.call('SCAN', cursor, 'MATCH', start .. '*', 'COUNT', looked_max)
local ids = {}
for i, key in ipairs(found[2]) do ids[i] = string.sub(key, #start + 1) end
return { found[1], ids }
