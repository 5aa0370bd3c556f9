#!lua flags=allow-oom
-- abandon_archive: the owner of the cell has lost its archive. The entries that were trimmed are
-- lost, nothing waits for the archive, and a new archive may begin.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   of              text                   which archive: fingerprint of its public key
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
-- Reply: ok, or duplicate when there is none
-- Refusals: INVALID_MESSAGE
-- Events: ArchiveAbandoned
-- Bound: constant
-- include: cache
-- include: call
-- include: clock
-- include: events
-- include: keys
-- include: log_trim
-- include: validate
-- include: write
local refusal = validate.operator_refusal(why, by)
if refusal then return refusal end
local stored = redis.call('HMGET', keys.archive, 'of', 'to')
if not stored[1] then return 'duplicate' end
if stored[1] ~= of then return validate.invalid('key', 'the key of this archive, ' .. stored[1]) end
local active = keys.of('lease', 'archive')
local until_ms = tonumber(redis.call('HGET', active, 'until')) or 0
if until_ms > clock.now() then
  return validate.invalid('archive', 'one that no archiver has a lease on')
end

-- An archiver that is still in the middle of a segment is fenced: its seal is refused.
write('HINCRBY', active, 'epoch', 1)
write('XGROUP', 'DESTROY', keys.log, 'archive')
local fields = redis.call('HGETALL', keys.archive)
cache.write_stable('DEL', keys.archive)
call.or_else(function()
  cache.write_stable('HSET', keys.archive, unpack(fields))
end, events.ArchiveAbandoned, of, stored[2], log_trim.total(), why, by)
return 'ok'
