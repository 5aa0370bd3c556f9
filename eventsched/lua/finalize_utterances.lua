#!lua flags=allow-oom
-- finalize_utterances: producers ask that their current utterance ends here (rules 1, 2).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   then per finalize, at most 64: session (name), epoch,
--     utterance (not the current one, or empty: a duplicate)
-- Reply: per finalize `ok|duplicate utterance finalized…` or `refused CODE key=value`
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: UtteranceFinalized, JobDispatched, JobQueued
-- Bound: the finalizes given, at most 64; 32 members of a room each; 8 jobs given away, each with
--   64 demands and 8 fills
-- include: keys
-- include: numbers
-- include: sessions
-- include: validate
-- include: write
-- Why it is refused, or nil.
local function check(s, epoch, wanted)
  if not epoch then return 'INVALID_MESSAGE field=epoch limit=a whole number' end
  if not wanted then return 'INVALID_MESSAGE field=utterance limit=a whole number' end
  local why = sessions.refusal(s, epoch)
  -- One that lost the race with the session's end asks for what is complete: no error (rule 1).
  if why == 'SESSION_CLOSED' and wanted < s.utterance then return nil end
  return why
end

local function take(finalize)
  local s, epoch = sessions.get(finalize.session, true), validate.int(finalize.epoch, 0, 1e9)
  local wanted = validate.int(finalize.utterance, 0, 1e12)
  local why = check(s, epoch, wanted)
  if why then return 'refused ' .. why end
  if wanted ~= s.utterance or s.buf_bytes == 0 then
    write('HINCRBY', keys.counters, 'duplicate_finalizes', '1')
    return 'duplicate ' .. numbers.text[s.utterance]
  end
  sessions.finalize(s, 'final')
  return 'ok ' .. numbers.text[s.utterance] .. ' ' .. numbers.text[wanted]
end

local replies = {}
for i, finalize in each_finalize(ARGV) do replies[i] = take(finalize) end
return replies
