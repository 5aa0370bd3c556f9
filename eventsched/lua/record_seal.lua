#!lua flags=allow-oom
-- record_seal: the archive has stored the log up to `to` on disk, so the entries after `from` up to
-- `to` may be trimmed. A call with from = to = 0-0 creates the archive of the cell.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   epoch           number                 of the caller's lease on the set `archive`
--   from            log id                 position of the archive that the caller expects
--   to              log id
--   of              text                   which archive: fingerprint of its public key
--   passed          number                 entries that the log ever had up to `to`; for `to` = 0-0
--                                          the script reads the number
--   audio           0 | 1                  1: chunks stay until they are archived, too
--   then per session, at most 250: name, last_chunk (id up to which the archive holds its audio)
-- Reply: recorded, fenced (another process archives), moved (the archive is not at `from`) or other
--   (the cell has another archive)
-- Refusals: INVALID_MESSAGE
-- Events: none (the trimming that follows appends an event)
-- Bound: the arguments, at most 250 sessions; the open outcomes of each
-- include: cache
-- include: entry_ids
-- include: groups
-- include: keys
-- include: log_trim
-- include: numbers
-- include: session_audio
-- include: sessions
-- include: validate
-- include: write
if not entry_ids.is_valid(from) then return validate.invalid('from', 'an entry id') end
if not entry_ids.is_valid(to) or entry_ids.precedes(to, from) then
  return validate.invalid('to', 'an id not before from')
end
if not validate.int(passed, 0, 1e14) then
  return validate.invalid('passed', 'a whole number below 1e14')
end
if not validate.is_name(of) then return validate.invalid('of', 'a fingerprint') end
if audio ~= '0' and audio ~= '1' then return validate.invalid('audio', '0 or 1') end
for _, session in each_session(ARGV) do
  if not entry_ids.is_valid(session.last_chunk or '') then
    return validate.invalid('chunk', 'an id for each session')
  end
end
local active = keys.of('lease', 'archive')
if redis.call('HGET', active, 'epoch') ~= epoch then return 'fenced' end
local stored = redis.call('HMGET', keys.archive, 'to', 'of')
if stored[2] and stored[2] ~= of then return 'other' end
local at = stored[1] or '0-0'
if at ~= from and at ~= to then return 'moved' end
-- A new archive begins after the entries that are trimmed.
local count = tonumber(passed)
if to == '0-0' then count = log_trim.count() end
groups.move(keys.log, 'archive', to, count)
write('HSET', keys.archive, 'to', to, 'of', of)
if redis.call('HGET', keys.archive, 'audio') ~= audio then
  cache.write_stable('HSET', keys.archive, 'audio', audio)
end
write('HSET', active, 'passed', numbers.text[count])
for _, session in each_session(ARGV) do
  local s = sessions.find(session.name) -- the audio of a damaged session stays
  if s then
    write('HSET', keys.of('session', s.name), 'archived', session.last_chunk)
    s.archived = session.last_chunk
    session_audio.trim(s)
  end
end
return 'recorded'
