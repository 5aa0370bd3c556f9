#!lua flags=no-writes
-- read_views: records of one live read model, together with its checkpoint.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   set             name
--   projection      name
--   then per record, at most 4096: entity (its id, at most 1,024 B)
-- Reply: [checkpoint, live revision or empty, per record: 1 if the list of ids has it, else 0, and
--   its fields and values in a list]; the list of a key of another type is [other_type, empty], as
--   that of a record whose list of ids is of another type
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the records given, at most 4096
-- include: keys
-- include: reply
local live = redis.call('GET', keys.of('active_revision', projection)) or ''
local views = { redis.call('GET', keys.of('checkpoint', set)) or '0-0', live }
local ids = keys.of('view_ids', projection, live)
for i, record in each_record(ARGV) do
  local key, is_listed = keys.of('view', projection .. ':' .. live, record.entity), false
  local is_read, fields = pcall(function()
    is_listed = redis.call('ZSCORE', ids, record.entity)
    return redis.call('HGETALL', key)
  end)
  if not is_read then
    if not reply.is_wrong_type(fields) then error(fields, 0) end
    fields = { 'other_type', '' }
  end
  views[2 * i + 1], views[2 * i + 2] = is_listed and 1 or 0, fields
end
return views
