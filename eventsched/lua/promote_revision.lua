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
--   entries         number                 of the log, folded into the revision
--   left_out        number                 of these, those that could not be folded
--   request         name                   of the act, as `start_rebuild` got it
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
--   then per projection, at most 64: name, live (the live revision that the caller expects),
--     revision (the new revision)
-- Reply: [switched], [behind, the live checkpoint], [fenced] or [rebuilt, projection]
-- Refusals: INVALID_MESSAGE
-- Events: RebuildPromoted
-- Bound: the projections given, at most 64; 1,025 requests
-- include: cache
-- include: call
-- include: events
-- include: keys
-- include: operator
-- include: validate
local refusal = operator.refusal(request, why, by)
if refusal then return refusal end
local entries_no, left_out_no = validate.int(entries, 0, 1e14), validate.int(left_out, 0, 1e14)
if not entries_no or not left_out_no then
  return validate.invalid('entries', 'whole numbers below 1e14')
end
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
local act, revisions, promoted, old = 'rebuild ' .. revision_set, {}, {}, {}
for _, projection in each_projection(ARGV) do
  act = act .. ' ' .. projection.name
  revisions[#revisions + 1] = events.revision(projection.name, projection.revision)
  promoted[#promoted + 1] = projection.revision
  old[#old + 1] = { key = keys.of('active_revision', projection.name), revision = projection.live }
end
for i, each in ipairs(old) do cache.write_stable('SET', each.key, promoted[i]) end
call.or_else(function()
  for _, each in ipairs(old) do
    if each.revision == '' then
      cache.write_stable('DEL', each.key)
    else
      cache.write_stable('SET', each.key, each.revision)
    end
  end
end, events.RebuildPromoted, revisions, entries_no, left_out_no, { why = why, by = by })
operator.record(request, act, promoted)
return { 'switched' }
