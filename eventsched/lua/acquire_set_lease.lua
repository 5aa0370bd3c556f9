#!lua flags=allow-oom
-- acquire_set_lease: become the process that folds a projection set, stay it, or give the set up. Each
-- take-over raises the epoch, and later calls of the former owner are refused. A set that folds
-- live also gets its consumer group, at its checkpoint, and its first revisions.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   set             name
--   owner          text                   the caller: unique for each process
--   lease_ms         ms                     0 gives the set up
--   group           name                   consumer group; empty for a revision, which has none
--   then per projection: name, version
-- Reply: [acquired, epoch, live revision per projection], [standby, ms until the lease ends] or
--   [version, projection, its live revision]: code of another version folds it
-- Refusals: none
-- Events: none
-- Bound: the projections of the set
-- include: cache
-- include: clock
-- include: groups
-- include: keys
-- include: reply
-- include: write
local now, active = clock.now(), keys.of('lease', set)
local stored = redis.call('HMGET', active, 'owner', 'epoch', 'until', 'passed')
local epoch, ends = tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
if stored[1] ~= owner and ends > now then return { 'standby', ends - now } end

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

-- The same owner within its time keeps its epoch: nobody else acted in between.
local takes_over = stored[1] ~= owner or ends <= now
if takes_over then epoch = epoch + 1 end
for live, revision in pairs(new_revisions) do cache.write_stable('SET', live, revision) end
if group ~= '' then
  local checkpoint = redis.call('GET', keys.of('checkpoint', set))
  local is_new = groups.create(keys.log, group, checkpoint or '0', 'ENTRIESREAD',
    checkpoint and stored[4] or '0')
  -- How many entries the set has passed: those that were trimmed before it began, then those that
  -- it saves.
  if is_new and not checkpoint then
    local stream = reply.by_name(redis.call('XINFO', 'STREAM', keys.log))
    write('HSET', active, 'passed',
      string.format('%d', (stream['entries-added'] or 0) - (stream['length'] or 0)))
  end
end
write('HSET', active, 'owner', owner, 'epoch', string.format('%d', epoch),
  'until', string.format('%d', now + tonumber(lease_ms)))
return { 'acquired', epoch, unpack(revisions) }
