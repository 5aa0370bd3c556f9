#!lua flags=allow-oom
-- set_aside_archive: the archive has segments that the log has lost. The operator sets them aside,
-- and archiving continues after the segment before them.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   epoch           number                 of the caller's lease on the set `archive`
--   of              text                   which archive: fingerprint of its public key
--   first_segment   number                 of the first of these segments
--   segments        number                 how many there are
--   entries         number                 entries in these segments
--   first           log id                 of their first entry
--   last            log id                 of their last entry
--   head            64 hex digits          root of the tree over all segments up to these
--   roots           text, at most 4,159 B  64 hex digits of each of the first 64 of these segments,
--                                          joined by comma
--   why             text                   1 to 500 B
--   by              text                   1 to 200 B: who sets the segments aside
-- Reply: ok, duplicate (the event is in the log) or fenced (another process archives)
-- Refusals: INVALID_MESSAGE
-- Events: ArchiveSetAside
-- Bound: the roots given, at most 64
-- include: call
-- include: entry_ids
-- include: events
-- include: keys
-- include: validate
-- include: write
local numbers_max, roots_max = 1e14, 64
local function is_root(text)
  return #text == 64 and string.match(text, '^[0-9a-f]+$') ~= nil
end

local fields = { of = of, first = first, last = last, head = head, why = why, by = by,
  first_segment = validate.int(first_segment, 0, numbers_max),
  segments = validate.int(segments, 1, numbers_max),
  entries = validate.int(entries, 1, numbers_max) }
if not (fields.first_segment and fields.segments and fields.entries) then
  return validate.invalid('segments', 'whole numbers below 1e14')
end
if not entry_ids.is_valid(first) or not entry_ids.is_valid(last)
  or entry_ids.precedes(last, first) then
  return validate.invalid('last', 'an entry id not before the first')
end
if not is_root(head) or not validate.list_of(roots, roots_max, is_root) or roots == '' then
  return validate.invalid('roots', '1 to 64 hashes of 64 hex digits')
end
local refusal = validate.operator_refusal(why, by)
if refusal then return refusal end
local active = keys.of('lease', 'archive')
if redis.call('HGET', active, 'epoch') ~= epoch then return 'fenced' end
local stored = redis.call('HGET', keys.archive, 'of')
if stored and stored ~= of then
  return validate.invalid('key', 'the key of this archive, ' .. stored)
end

-- The hash of the tree names these segments: a repeated call appends no second event.
local before = redis.call('HGET', keys.counters, 'set_aside')
if before == head then return 'duplicate' end
write('HSET', keys.counters, 'set_aside', head)
call.or_else(function()
  write('HSET', keys.counters, 'set_aside', before or '')
end, events.ArchiveSetAside, fields, roots)
return 'ok'
