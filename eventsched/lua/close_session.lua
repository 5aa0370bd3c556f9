#!lua flags=allow-oom
-- close_session: the session accepts no more chunks. Buffered audio is finalized; the session is
-- closed when all its outcomes have ended (rule 6, two-step close).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            session name
--   epoch_arg       number
-- Reply: ok | duplicate
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, INVALID_MESSAGE
-- Events: SessionClosing, UtteranceFinalized, JobDispatched, JobQueued, JobsRetired, RoomLeft,
--   PlaybackEnded, SessionClosed
-- Bound: 32 members of a room, 64 playbacks; 8 jobs assigned, each with 8 fills;
--   16 utterances or 128 job records deleted
-- include: closing
-- include: sessions
-- include: validate
local s, epoch = sessions.get(name, true), validate.int(epoch_arg, 0, 1e9)
if not epoch then return validate.invalid('epoch', 'a whole number') end
local refusal = sessions.refusal(s, epoch)
if refusal == 'SESSION_CLOSED' then
  -- The call before may have failed after it had closed the session.
  if s.status == 'closing' then closing.finalize(s) end
  return 'duplicate'
end
if refusal then return redis.error_reply(refusal) end
closing.start(s, 'asked')
return 'ok'
