#!lua flags=allow-oom
-- finalize_utterance: the producer asks that the current utterance ends here (rules 1, 2).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   name            session name
--   epoch_arg       number
--   utterance       number                 not the current one, or empty: a duplicate
-- Reply: [ok|duplicate, utterance, finalized…]
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: UtteranceFinalized
-- Bound: 32 members of a room
local log_key = KEYS[1]
local now_arg, name, epoch_arg, utterance = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- include: sessions
local s, epoch = sessions.get(name, true), text.int(epoch_arg, 0, 1e9)
local wanted = text.int(utterance, 0, 1e12)
if not epoch then return invalid('epoch', 'a whole number') end
if not wanted then return invalid('utterance', 'a whole number') end
local why = sessions.refusal(s, epoch)
-- One that lost the race with the session's end asks for what is complete: no error (rule 1).
if why == 'SESSION_CLOSED' and wanted < s.utterance then why = nil end
if why then return redis.error_reply(why) end
if wanted ~= s.utterance or s.buf_bytes == 0 then
  write('HINCRBY', keys.cell, 'duplicate_finalizes', 1)
  return { 'duplicate', s.utterance }
end
sessions.finalize(s, 'final')
sessions.flush()
return { 'ok', s.utterance, wanted }
