#!lua flags=allow-oom
-- promote_revision: switch readers and the live fold to a new revision, at the log id at which both
-- revisions are equal. The next save of the live owner is refused as `rebuilt`, and the owner folds
-- its batch again.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   set             name                   of the live set
--   revision_set    name                   of the revision
--   epoch           number                 of the caller's lease on the revision
--   then per projection, at most 64: name, live (the live revision that the caller expects),
--     revision (the new revision)
-- Reply: [switched], [behind, the live checkpoint], [fenced] or [rebuilt, projection]
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the projections given, at most 64
-- include: cache
-- include: keys
if redis.call('HGET', keys.of('lease', revision_set), 'epoch') ~= epoch then return { 'fenced' } end
local checkpoint = redis.call('GET', keys.of('checkpoint', set)) or '0-0'
if (redis.call('GET', keys.of('checkpoint', revision_set)) or '0-0') ~= checkpoint then
  return { 'behind', checkpoint }
end
for _, projection in each_projection(ARGV) do
  if (redis.call('GET', keys.of('active_revision', projection.name)) or '') ~= projection.live then
    return { 'rebuilt', projection.name }
  end
end
for _, projection in each_projection(ARGV) do
  cache.write_stable('SET', keys.of('active_revision', projection.name), projection.revision)
end
return { 'switched' }
