#!lua flags=allow-oom
-- acquire_set_lease: acquire, renew or release the lease of a projection set. Each change of the
-- owner increases the epoch, and later calls of the former owner are refused. A set that folds live
-- also gets its first revisions, and its consumer group, at its checkpoint. A new owner is the only
-- consumer of the group.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   set             name
--   owner           text                   the caller: unique for each process
--   lease_ms        ms                     0 releases the set
--   group           name                   consumer group; empty for a revision, which has none
--   then per projection, at most 64: name, version
-- Reply: [acquired, epoch, moved, live revision per projection], [standby, ms until the lease
--   until_ms] or [version, projection, its live revision]: code of another version folds the
--   projection. moved is 1 if the group was not at the checkpoint, and now is: entries may have
--   been delivered to another consumer, or to this one in a read whose reply was lost
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the projections of the set, at most 64; the groups of the log and the consumers of the
--   set's group, of which at most 128 are removed
-- include: cache
-- include: clock
-- include: groups
-- include: keys
-- include: log_trim
-- include: numbers
-- include: validate
-- include: write
if not validate.is_name(set) then return validate.invalid('set', 'a name') end
if group ~= '' and not validate.is_name(group) then
  return validate.invalid('group', 'a name or empty')
end
if owner == '' or not validate.is_text(owner, 255) then
  return validate.invalid('owner', 'text of 1 to 255 bytes')
end
if not validate.int(lease_ms, 0, 3600000) then
  return validate.invalid('lease_ms', '0 to 3600000 ms')
end
for _, projection in each_projection(ARGV) do
  if not validate.is_name(projection.name) or not validate.int(projection.version, 0, 1e9) then
    return validate.invalid('projections', 'a name and a whole number each')
  end
end

-- The id of the last entry that the owner of the group has processed; nil if there is none.
local function saved_position()
  local id
  if group == 'archive' then
    id = redis.call('HGET', keys.archive, 'to')
  else
    id = redis.call('GET', keys.of('checkpoint', set))
  end
  return id or nil
end

local now, active = clock.now(), keys.of('lease', set)
local stored = redis.call('HMGET', active, 'owner', 'epoch', 'until', 'passed')
local epoch, until_ms = tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
if stored[1] ~= owner and until_ms > now then return { 'standby', until_ms - now } end

local revisions, new_revisions = {}, {}
for _, projection in each_projection(ARGV) do
  local live = keys.of('active_revision', projection.name)
  local revision = redis.call('GET', live)
  if not revision then
    revision = projection.version .. '.1'
    new_revisions[live] = revision
  end
  if string.match(revision, '^%d+') ~= projection.version then
    return { 'version', projection.name, revision }
  end
  revisions[#revisions + 1] = revision
end

-- The same owner within its lease keeps its epoch: no other process had the lease in between.
local takes_over = stored[1] ~= owner or until_ms <= now
if takes_over then epoch = epoch + 1 end
for live, revision in pairs(new_revisions) do cache.write_stable('SET', live, revision) end
local fields, is_moved = {}, false
if group ~= '' then
  local position = saved_position()
  -- How many entries the set has passed: the entries that were trimmed before the set began, then
  -- the entries of each save.
  local passed = position and (tonumber(stored[4]) or 0) or log_trim.count()
  is_moved = groups.restore(keys.log, group, position or '0-0', passed)
  if tonumber(lease_ms) == 0 then
    groups.leave(keys.log, group, owner)
  elseif takes_over or is_moved then
    groups.claim(keys.log, group, owner)
  end
  fields = { 'passed', numbers.text[passed] }
end
write('HSET', active, 'owner', owner, 'epoch', numbers.text[epoch],
  'until', numbers.text[now + tonumber(lease_ms)], unpack(fields))
return { 'acquired', epoch, is_moved and 1 or 0, unpack(revisions) }
