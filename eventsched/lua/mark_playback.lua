#!lua flags=allow-oom
-- mark_playback: synthesised speech begins or ends to play at the listener of this session (rule 5,
-- no pause during playback). A playback starts only for a result that the session can have
-- received: one of its own, or of a session of its tenant in its room.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            session name           at whose listener the speech plays
--   epoch_arg       number
--   origin          full session id        whose speech was translated
--   target          language
--   utterance       number
--   started         0 | 1
-- Reply: ok | duplicate   also for a result whose speaker has been retired: without effect
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: PlaybackStarted, PlaybackEnded
-- Bound: constant
-- include: keys
-- include: playback
-- include: sessions
-- include: validate
local open_max = 64

-- Whether the session `s` can have received a result of the speaker: the utterance is finalized,
-- and the target has had a delivery number.
local function can_have_received(s, speaker, utterance_no)
  if speaker.name ~= s.name
    and (s.room == '' or speaker.room ~= s.room or speaker.tenant ~= s.tenant) then
    return false
  end
  return utterance_no < speaker.utterance
    and redis.call('HEXISTS', keys.of('session', speaker.name), 'a:' .. target) == 1
end

local s, epoch = sessions.get(name), validate.int(epoch_arg, 0, 1e9)
local number = validate.int(utterance, 0, 1e12)
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not number then return validate.invalid('utterance', 'a whole number') end
if started ~= '0' and started ~= '1' then return validate.invalid('started', '0 or 1') end
if not validate.is_target(target) then
  return validate.invalid('target', 'a language, never auto')
end
if not keys.name(origin) then return validate.invalid('origin', 'a session of this cell') end
local refusal = sessions.refusal(s, epoch)
if refusal then return redis.error_reply(refusal) end
local field = origin .. '/' .. target .. '/' .. string.format('%d', number)
local playing = keys.of('playing', name)
local is_open = redis.call('HEXISTS', playing, field) == 1
if is_open == (started == '1') then return 'duplicate' end
local speaker = sessions.get(keys.name(origin))
if started == '1' and (not speaker or speaker.status == 'retired') then return 'duplicate' end
if started == '1' and not can_have_received(s, speaker, number) then
  return validate.invalid('playback', 'a result that this session can have received')
end
if started == '1' and redis.call('HLEN', playing) >= open_max then
  return validate.invalid('playback', '64 open at once')
end

sessions.touch(s)
if started == '1' then
  playback.start(s, field, origin, target, number)
else
  playback.finish(s, field, 'ended')
end
return 'ok'
