#!lua
-- start_playback: synthesised speech begins to play at the listener of this session (rule 5, no
-- pause during playback). A playback starts only for a result that the session can have received:
-- one of its own, or of a session of its tenant in its room.
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
-- Reply: ok | duplicate   also for a result whose speaker has been retired: without effect
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE, BACKPRESSURE
-- Events: PlaybackStarted
-- Bound: constant
-- include: backpressure
-- include: keys
-- include: playback
-- include: sessions
-- include: validate

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

local s = sessions.get(name)
local refusal, number = playback.check(s, epoch_arg, origin, target, utterance)
if refusal then return refusal end
local field = playback.field(origin, target, number)
if playback.is_open(s, field) then return 'duplicate' end
local speaker = sessions.get(keys.name(origin))
if not speaker or speaker.status == 'retired' then return 'duplicate' end
if not can_have_received(s, speaker, number) then
  return validate.invalid('playback', 'a result that this session can have received')
end
refusal = playback.start_refusal(s)
if refusal then return refusal end
refusal = backpressure.refusal(s.tenant)
if refusal then return redis.error_reply(refusal) end

sessions.touch(s)
playback.start(s, field, origin, target, number)
return 'ok'
