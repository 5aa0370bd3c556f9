#!lua flags=allow-oom
-- end_playback: synthesised speech has stopped playing at the listener of this session (rule 5, no
-- pause during playback).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            session name           at whose listener the speech played
--   epoch_arg       number
--   origin          full session id        whose speech was translated
--   target          language
--   utterance       number
-- Reply: ok | duplicate   the playback is not open
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: PlaybackEnded
-- Bound: constant
-- include: playback
-- include: sessions
local s = sessions.get(name)
local refusal, number = playback.check(s, epoch_arg, origin, target, utterance)
if refusal then return refusal end
local field = playback.field(origin, target, number)
if not playback.is_open(s, field) then return 'duplicate' end

sessions.touch(s)
playback.finish(s, field, 'ended')
return 'ok'
