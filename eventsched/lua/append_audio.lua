#!lua
-- append_audio: store chunks of any number of sessions, and finalize what is complete (rules 2-4, 7).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   then per chunk, at most 512: session (name), epoch, seq, ms, end_of_utterance (0|1), payload,
--     confirmed (out id or empty)
-- Reply: per chunk `ok|duplicate utterance finalized…` or `refused CODE key=value`
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, SEQ_GAP, CHUNK_TOO_LARGE,
--   INVALID_MESSAGE, BACKPRESSURE
-- Events: AudioChunkAppended (audio stream), UtteranceFinalized, JobDispatched,
--   JobQueued
-- Bound: the chunks given, at most 512; 8 jobs given away, each with 64 demands and 8 fills
local bytes_max = 65536
-- include: delivery
-- include: numbers
-- include: sessions
-- include: validate
-- Why the chunk is refused, or the word for one that has no effect, or nothing.
local function check(s, epoch, seq, ms, end_of_utterance, payload, confirmed)
  if not epoch then return 'INVALID_MESSAGE field=epoch limit=a whole number' end
  local why = sessions.refusal(s, epoch)
  if why then return why end
  if not seq then return 'INVALID_MESSAGE field=seq limit=a whole number' end
  if not delivery.is_confirmable(confirmed) then
    return 'INVALID_MESSAGE field=confirmed limit=an entry id or empty'
  end
  if seq < s.next_seq then return nil, 'duplicate' end
  if seq > s.next_seq then return 'SEQ_GAP expected=' .. string.format('%d', s.next_seq) end
  if #payload > bytes_max then return 'CHUNK_TOO_LARGE limit=65536 B' end
  if not ms or (ms < 20 and not end_of_utterance) then return 'INVALID_MESSAGE field=ms limit=20 to 1000 ms' end
  if #payload == 0 and not end_of_utterance then
    return 'INVALID_MESSAGE field=payload limit=only a final chunk may be empty'
  end
  return sessions.pressure(s.tenant)
end

local function take(chunk)
  local epoch, seq = validate.int(chunk.epoch, 0, 1e9), validate.int(chunk.seq, 0, 1e12)
  local ms, end_of_utterance, payload = validate.int(chunk.ms, 0, 1000), chunk.end_of_utterance == '1', chunk.payload
  local s = sessions.get(chunk.session)
  local why, word = check(s, epoch, seq, ms, end_of_utterance, payload, chunk.confirmed)
  if why then return 'refused ' .. why end
  delivery.confirm(chunk.session, chunk.confirmed)
  if word then return word .. ' ' .. numbers.text[s.utterance] end
  local done = sessions.append(s, seq, ms, end_of_utterance, payload)
  return 'ok ' .. numbers.text[s.utterance] .. done
end

local replies = {}
for i, chunk in each_chunk(ARGV) do replies[i] = take(chunk) end
return replies
