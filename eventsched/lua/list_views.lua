#!lua flags=no-writes
-- list_views: records of one live read model in the order of their ids, by bytes.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   projection      name
--   after           the id after which the list begins; empty for the first (at most 1,024 B)
--   limit           number                 of records, 1 to 128
-- Reply: [live revision or empty, per record: id, its fields and values in a list]; the list of a
--   record that does not exist is empty
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the limit, at most 128 records
-- include: keys
-- include: validate
local limit_max = 128

if not validate.int(limit, 1, limit_max) then return validate.invalid('limit', '1 to 128') end
local live = redis.call('GET', keys.of('active_revision', projection)) or ''
local first = after == '' and '-' or '(' .. after
local ids = redis.call('ZRANGE', keys.of('view_ids', projection, live), first, '+', 'BYLEX',
  'LIMIT', 0, limit)
local views = { live }
for i, id in ipairs(ids) do
  views[2 * i] = id
  views[2 * i + 1] = redis.call('HGETALL', keys.of('view', projection .. ':' .. live, id))
end
return views
