#!lua flags=allow-oom
-- start_rebuild: a process begins to fold the log into new revisions of read models. The event says
-- who asked for it and why, once for each act: the next try of an act appends nothing.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   revision_set    name                   of the revision
--   epoch           number                 of the caller's lease on the revision
--   request         name                   of the act: once its revisions are promoted, it is done
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
--   then per part, at most 64: name, revision (the new revision of the projection)
-- Reply: [started], [fenced], or [done, the revision of each projection] if the revisions of an
--   earlier rebuild for this request are promoted
-- Refusals: INVALID_MESSAGE
-- Events: RebuildStarted
-- Bound: the projections given, at most 64; 1,025 requests
-- include: events
-- include: keys
-- include: operator
-- include: validate
local refusal = operator.refusal(request, why, by)
if refusal then return refusal end
local act, revisions = 'rebuild ' .. revision_set, {}
for _, part in each_part(ARGV) do
  if not validate.is_name(part.name) then return validate.invalid('projections', 'names') end
  act = act .. ' ' .. part.name
  revisions[#revisions + 1] = events.revision(part.name, part.revision)
end
if not revisions[1] then return validate.invalid('projections', 'one or more') end
local earlier = operator.earlier_reply(request, act)
if earlier and earlier.err then return earlier end
if earlier and earlier[1] then return { 'done', unpack(earlier) } end
if redis.call('HGET', keys.of('lease', revision_set), 'epoch') ~= epoch then return { 'fenced' } end
if not earlier then
  events.RebuildStarted(revisions, { why = why, by = by })
  operator.record(request, act, {})
end
return { 'started' }
