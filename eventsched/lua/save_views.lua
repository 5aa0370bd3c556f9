#!lua flags=allow-oom
-- save_views: store the changed views of a batch, the checkpoint after the batch and the position
-- of the consumer group, in one step. After a crash before this call the batch is read again; after
-- a crash after this call it is not. The lease of the caller is extended. A batch that does not
-- begin with the entry after the checkpoint is not stored: another consumer has read from the
-- group, or the group was moved. The group is moved back, and the caller reads the log by range.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   set             name
--   group           name                   consumer group; empty for a revision, which has none
--   epoch           number                 of the caller's lease
--   from            log id                 checkpoint before the batch; 0-0 at the start
--   first           log id                 of the first entry of the batch; empty for a revision
--   to              log id                 checkpoint after the batch
--   count           number                 entries of the log that the group passes with the batch
--   lease_ms        ms                     for so long the lease lasts from now on
--   then sections, each beginning with its number of items:
--     revisions   projection, revision             as they were when the batch was folded
--     and of each of these revisions, in their order:
--       drops  entity
--       runs of puts   entity, the id that changed it last, new (1: the revision had no record of
--                      the entity; else 0), its field `v`, then field, value
--     runs of indexes   session, then log ids
--     runs of node indexes   node, then log ids
--     dead     log id, type, d, reason       d is JSON
--   A run is a list of items of equal length: the number of items, the number of arguments of each,
--   the items. No item has more than a thousand arguments, because `unpack` takes no more.
-- Reply: saved, fenced (another process holds the set), moved (the checkpoint is not `from`, or the
--   entry after it is not `first`) or rebuilt (a revision was promoted: fold again)
-- Refusals: INVALID_MESSAGE
-- Events: none (events that could not be folded become dead letters)
-- Bound: the arguments; the groups of the log and the consumers of the group, if it was moved
-- include: call
-- include: clock
-- include: entry_ids
-- include: groups
-- include: keys
-- include: numbers
-- include: validate
-- include: write

local items_max, length_max = 1e6, 1000
local none = {}
-- Whether the sections are whole: each count is a number, and no argument is missing or left over.
local function are_sections_whole()
  local place = sections_at
  local function count()
    place = place + 1
    return validate.int(ARGV[place - 1], 0, items_max)
  end
  local function skip_runs(fits)
    local runs = count()
    for _ = 1, runs or 0 do
      local items, length = count(), count()
      if not items or not length or length > length_max or not fits(length) then return false end
      place = place + items * length
    end
    return runs ~= nil
  end
  local revisions = count()
  place = place + 2 * (revisions or 0)
  for _ = 1, revisions or 0 do
    local drops = count()
    place = place + (drops or 0)
    if not drops or not skip_runs(function(length) return length >= 4 and length % 2 == 0 end) then
      return false
    end
  end
  local function has_ids(length) return length >= 2 end
  if not revisions or not skip_runs(has_ids) or not skip_runs(has_ids) then return false end
  local dead = count()
  return dead ~= nil and place + 4 * dead == #ARGV + 1
end

if not validate.int(lease_ms, 0, 3600000) then
  return validate.invalid('lease_ms', '0 to 3600000 ms')
end
if not validate.int(count, 0, items_max) then return validate.invalid('count', 'a whole number') end
if not entry_ids.is_valid(from) then return validate.invalid('from', 'an entry id') end
if group ~= '' and not entry_ids.is_valid(first) then
  return validate.invalid('first', 'an entry id')
end
if not entry_ids.is_valid(to) then return validate.invalid('to', 'an entry id') end
if not are_sections_whole() then return validate.invalid('sections', 'whole, with their counts') end
local at = sections_at - 1
local function next_argument()
  at = at + 1
  return ARGV[at]
end
local function next_number()
  return tonumber(next_argument())
end
-- The next run: the indexes of its first and its last argument, and the number of arguments of an
-- item.
local function next_run()
  local items, length = next_number(), next_number()
  local first = at + 1
  at = at + items * length
  return first, at, length
end

local active = keys.of('lease', set)
local stored = redis.call('HMGET', active, 'epoch', 'passed', 'owner')
if stored[1] ~= epoch then return 'fenced' end
if (redis.call('GET', keys.of('checkpoint', set)) or '0-0') ~= from then
  return 'moved'
end
local passed = tonumber(stored[2]) or 0
-- No entry lies between the checkpoint and the batch. A range that excludes both ends is empty
-- then, so the proof reads no entry.
if group ~= '' and (not entry_ids.precedes(from, first)
  or redis.call('XRANGE', keys.log, '(' .. from, '(' .. first, 'COUNT', 1)[1]) then
  groups.restore(keys.log, group, from, passed)
  groups.claim(keys.log, group, stored[3])
  return 'moved'
end
local records, ids = {}, {}
for i = 1, next_number() do
  local projection, revision = next_argument(), next_argument()
  local live = redis.call('GET', keys.of('active_revision', projection))
  -- A live set writes live revisions only; a rebuild never writes records that readers use.
  if (live == revision) ~= (group ~= '') then return 'rebuilt' end
  records[i] = keys.of('view', projection, revision) .. ':'
  ids[i] = keys.of('view_ids', projection, revision)
end

local ends = numbers.text[clock.now() + tonumber(lease_ms)]
local moves = group ~= '' and from ~= to
if moves then groups.move(keys.log, group, to, passed + tonumber(count)) end
write('HSET', active, 'until', ends)
-- The list of ids changes before the record: a call that fails between the two is repeated, and
-- changes both.
for n, record in ipairs(records) do
  for _ = 1, next_number() do
    local entity = next_argument()
    write('ZREM', ids[n], entity)
    write('UNLINK', record .. entity)
  end
  for _ = 1, next_number() do
    local first, last, length = next_run()
    for i = first, last, length do
      local entity, changed_by, is_new, form = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
      if is_new == '1' then write('ZADD', ids[n], 0, entity) end
      write('HSET', record .. entity, 'at', changed_by, 'v', form,
        unpack(ARGV, i + 4, i + length - 1))
    end
  end
end
local first_of_log
-- Remove ids of trimmed entries from the start of an index that has got `added` ids: more of them
-- than it got, so the index of a session that lives long is no longer than its part of the log.
local function trim_index(index, added)
  first_of_log = first_of_log or redis.call('XRANGE', keys.log, '-', '+', 'COUNT', 1)[1] or none
  local function is_trimmed(id)
    return first_of_log[1] and entry_ids.is_valid(id)
      and entry_ids.precedes(id, first_of_log[1])
  end
  if not is_trimmed(redis.call('LINDEX', index, 0)) then return end
  local count = 0
  for _, id in ipairs(redis.call('LRANGE', index, 0, 2 * added)) do
    if not is_trimmed(id) then break end
    count = count + 1
  end
  write('LTRIM', index, count, -1)
end

-- An index has an end before it has entries: drop_session_indexes finds it by its end.
local indexes = keys.of('session_index', '')
for _ = 1, next_number() do
  local first, last, length = next_run()
  for i = first, last, length do
    local session = ARGV[i]
    local ends_ms = string.match(ARGV[i + length - 1], '^%d+')
    if ends_ms then write('ZADD', keys.session_index_ends, ends_ms, session) end
    write('RPUSH', indexes .. session, unpack(ARGV, i + 1, i + length - 1))
    trim_index(indexes .. session, length - 1)
  end
end
-- An index has a start before it has entries: trim_node_indexes finds it by its start.
local node_indexes = keys.of('node_index', '')
for _ = 1, next_number() do
  local first, last, length = next_run()
  for i = first, last, length do
    local node, starts_ms = ARGV[i], string.match(ARGV[i + 1], '^%d+')
    if starts_ms then write('ZADD', keys.node_index_starts, 'NX', starts_ms, node) end
    write('RPUSH', node_indexes .. node, unpack(ARGV, i + 1, i + length - 1))
  end
end
for _ = 1, next_number() do
  local id, kind, d, reason = next_argument(), next_argument(), next_argument(), next_argument()
  write('XADD', keys.dead_letters, string.format('%d-*', clock.now()), 'from', 'log', 'id', id,
    'k', kind, 'd', d, 'reason', reason, 'partial', '0')
end
if moves then write('HSET', active, 'passed', numbers.text[passed + tonumber(count)]) end
call.or_else(function()
  if moves then write('HSET', active, 'passed', numbers.text[passed]) end
end, function() write('SET', keys.of('checkpoint', set), to) end)
return 'saved'
