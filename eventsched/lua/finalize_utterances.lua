#!lua flags=allow-oom
-- finalize_utterances: finalize the current utterances of sessions at the request of their
-- producers (rules 1, one order per session; 2, finalize reasons).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   then per finalize, at most 8: session (name), epoch,
--     utterance (a duplicate if it is not the current one, or empty),
--     tp (traceparent of the utterance; empty: that of the session)
-- Reply: per finalize `ok|duplicate utterance finalized…` or `refused CODE key=value`
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: UtteranceFinalized, JobDispatched, JobQueued, JobsRetired
-- Bound: the finalizes given, at most 8; 32 members of a room each; 8 jobs assigned, each with
--   8 fills; 16 utterances or 128 job records deleted for each finalize
-- include: damage
-- include: keys
-- include: numbers
-- include: sessions
-- include: utterances
-- include: validate
-- include: write

-- Why the finalize is refused, or nil.
local function check(s, epoch, utterance, tp)
  if not epoch then return 'INVALID_MESSAGE field=epoch limit=a whole number' end
  if not utterance then return 'INVALID_MESSAGE field=utterance limit=a whole number' end
  if tp ~= '' and not validate.is_traceparent(tp) then
    return 'INVALID_MESSAGE field=tp limit=a W3C traceparent or empty'
  end
  local refusal = sessions.refusal(s, epoch)
  -- A finalize of a complete utterance is no error after the end of the session (rule 1, one order
  -- per session).
  if refusal == 'SESSION_CLOSED' and utterance < s.utterance then return nil end
  return refusal
end

local function take(finalize)
  local s, epoch = sessions.get(finalize.session, true), validate.int(finalize.epoch, 0, 1e9)
  local utterance = validate.int(finalize.utterance, 0, 1e12)
  local refusal = check(s, epoch, utterance, finalize.tp)
  if refusal then return 'refused ' .. refusal end
  if utterance ~= s.utterance or s.buf_bytes == 0 then
    write('HINCRBY', keys.counters, 'duplicate_finalizes', '1')
    return 'duplicate ' .. numbers.text[s.utterance]
  end
  utterances.finalize(s, 'final', finalize.tp ~= '' and finalize.tp or nil)
  return 'ok ' .. numbers.text[s.utterance] .. ' ' .. numbers.text[utterance]
end

-- In each call:
local replies = {}
for i, finalize in each_finalize(ARGV) do
  local reply, refusal = damage.guard(take, finalize)
  replies[i] = reply or 'refused ' .. refusal
end
return replies
