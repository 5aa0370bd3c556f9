#!lua flags=allow-oom
-- drop_revision: one step of deleting the records, and the lists of their ids, that belong to no
-- live revision of a projection of the set. The last step also deletes the checkpoint of the
-- revision: the next revision starts from the beginning.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   revision_set    name
--   epoch           number                 of the caller's lease: no other process rebuilds
--   lease_ms        ms                     for so long the lease lasts from now on
--   cursor          end of the last step; 0 to begin
--   then per projection, at most 64: name
-- Reply: [fenced] or [count, cursor of the next step (0: done), number of records deleted]
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: 256 keys scanned; the projections given, at most 64
-- include: clock
-- include: keys
-- include: validate
-- include: write
local scanned_max = 256

if not validate.int(lease_ms, 0, 3600000) then
  return validate.invalid('lease_ms', '0 to 3600000 ms')
end
if #cursor > 20 or not string.match(cursor, '^%d+$') then
  return validate.invalid('cursor', 'a whole number')
end
local active = keys.of('lease', revision_set)
if redis.call('HGET', active, 'epoch') ~= epoch then return { 'fenced' } end
write('HSET', active, 'until', string.format('%d', clock.now() + tonumber(lease_ms)))
local live = {}
for _, projection in each_projection(ARGV) do
  live[projection.name] = redis.call('GET', keys.of('active_revision', projection.name)) or ''
end
local page = redis.call('SCAN', cursor, 'MATCH', keys.prefix .. 'view*', 'COUNT', scanned_max)
local count = 0
for _, key in ipairs(page[2]) do
  local kind, projection, revision = string.match(key, ':(view[_ids]*):([^:]+):([^:]+)')
  if live[projection] and live[projection] ~= revision then
    local deleted = write('UNLINK', key)
    if kind == 'view' then count = count + deleted end
  end
end
if page[1] == '0' then write('DEL', keys.of('checkpoint', revision_set)) end
return { 'dropped', page[1], count }
