#!lua flags=allow-oom
-- give_up_archive: the cell has no archive any more. Its owner has lost it: what was trimmed is gone
-- for good, nothing waits for it, and another archive may begin.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   of              text                   which archive: fingerprint of its public key
-- Reply: ok, or duplicate when there is none
-- Refusals: INVALID_MESSAGE
-- Events: ArchiveAbandoned
-- Bound: constant
-- include: cache
-- include: clock
-- include: events
-- include: keys
-- include: validate
-- include: write

local kept = redis.call('HMGET', keys.archive, 'of', 'to')
if not kept[1] then return 'duplicate' end
if kept[1] ~= of then return validate.invalid('key', 'the key of this archive, ' .. kept[1]) end
local now, active = clock.now(), keys.of('lease', 'archive')
local ends = tonumber(redis.call('HGET', active, 'until')) or 0
if ends > now then return validate.invalid('archive', 'one that no archiver has a hold on') end

local gone = tonumber(redis.call('HGET', keys.counters, 'trimmed')) or 0
events.ArchiveAbandoned(of, kept[2], gone)
cache.write_stable('DEL', keys.archive)
write('XGROUP', 'DESTROY', keys.log, 'archive')
-- An archiver that was frozen amid a segment is fenced: what it seals no longer counts.
write('HINCRBY', active, 'epoch', 1)
return 'ok'
