#!lua flags=allow-oom
-- acquire_set: become the process that folds a projection set, stay it, or give the set up. Each
-- take-over raises the epoch, and later calls of the former holder are refused. A set that folds
-- live also gets its consumer group, at its checkpoint, and its first builds.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   set             name
--   holder          text                   the caller: unique for each process
--   hold_ms         ms                     0 gives the set up
--   group           name                   consumer group; empty for a build, which has none
--   then per projection: name, version
-- Reply: [held, epoch, live build per projection], [standby, ms until the hold ends] or
--   [version, projection, its live build]: code of another version folds it
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
local stored = redis.call('HMGET', active, 'holder', 'epoch', 'until', 'passed')
local epoch, ends = tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
if stored[1] ~= holder and ends > now then return { 'standby', ends - now } end

local builds, new_builds = {}, {}
for _, projection in each_projection(ARGV) do
  local live = keys.of('active_revision', projection.name)
  local build = redis.call('GET', live)
  if not build then
    build = projection.version .. '.1'
    new_builds[live] = build
  end
  if string.match(build, '^%d+') ~= projection.version then
    return { 'version', projection.name, build }
  end
  builds[#builds + 1] = build
end

-- The same holder within its time keeps its epoch: nobody else acted in between.
local takes_over = stored[1] ~= holder or ends <= now
if takes_over then epoch = epoch + 1 end
for live, build in pairs(new_builds) do cache.write_stable('SET', live, build) end
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
write('HSET', active, 'holder', holder, 'epoch', string.format('%d', epoch),
  'until', string.format('%d', now + tonumber(hold_ms)))
return { 'held', epoch, unpack(builds) }
