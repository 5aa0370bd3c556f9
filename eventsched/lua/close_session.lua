#!lua flags=allow-oom
-- close_session: no more chunks; what is buffered is finalized; it ends when all it owes has (rule 6).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   name            session name
--   epoch_arg       number
-- Reply: ok | duplicate
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, INVALID_MESSAGE
-- Events: SessionClosing, UtteranceFinalized, JobDispatched, JobQueued, RoomLeft, PlaybackEnded, SessionClosed
-- Bound: 32 members of a room, 64 playbacks; 8 jobs given away, each with 64 demands and 8 fills
-- include: sessions
-- include: validate
local s, epoch = sessions.get(name), validate.int(epoch_arg, 0, 1e9)
if not epoch then return validate.invalid('epoch', 'a whole number') end
local why = sessions.refusal(s, epoch)
if why == 'SESSION_CLOSED' then return 'duplicate' end
if why then return redis.error_reply(why) end
sessions.close(s, 'asked')
return 'ok'
