#!lua
-- append_audio: store chunks of any number of sessions, and finalize the utterances that are
-- complete (rules 2, finalize reasons; 3, no empty utterance; 4, silence per utterance; 7,
-- resumable sessions).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   then per chunk, at most 32: session (name), epoch, seq, ms,
--     end_of_utterance (0|1, or the traceparent of the utterance, which ends with the chunk),
--     payload (at most 1,048,576 B; a chunk takes less: CHUNK_TOO_LARGE),
--     confirmed (id of an outbox entry, or empty)
-- Reply: per chunk `ok|duplicate utterance finalized…`, `refused CODE key=value`, or `later
--   next_seq`: the call has finalized so much that another call has to store this chunk and those
--   after it
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, SEQ_GAP, CHUNK_TOO_LARGE,
--   INVALID_MESSAGE, BACKPRESSURE
-- Events: AudioChunkAppended (audio stream), UtteranceFinalized, JobDispatched, JobQueued,
--   JobsRetired
-- Bound: the chunks given, at most 32; 8 finalizes or 64 outcomes; 8 jobs assigned, each with 8
--   fills; 16 utterances or 128 job records deleted for each finalize
-- include: backpressure
-- include: damage
-- include: delivery
-- include: numbers
-- include: outbox
-- include: sessions
-- include: utterances
-- include: validate
local payload_max, outcomes_max, chunk_outcomes_max = 65536, 1024, 64
-- The sessions of which this call stores no more chunks; nil for none.
local postponed

local too_many = 'BACKPRESSURE cause=session_outcomes retry_after_ms=1000'

-- Why the chunk is refused because of the open outcomes of its session, or nil. The utterances
-- since the oldest open one are bounded as well: those without a target have no outcome.
local function outcomes_refusal(s, chunk, ms, is_final)
  local count, oldest = delivery.count(s.name), delivery.oldest_utterance(s.name)
  if oldest and s.utterance - oldest >= outcomes_max then return too_many end
  if count <= outcomes_max - chunk_outcomes_max then return nil end
  local _, opened = utterances.count_finalizes(s, ms, is_final, #chunk.payload)
  if count < outcomes_max and count + opened <= outcomes_max then return nil end
  return too_many
end

-- Returns why the chunk is refused, or nil; then true if the chunk is a duplicate.
local function check(s, chunk, epoch, seq, ms, is_final)
  if not epoch then return 'INVALID_MESSAGE field=epoch limit=a whole number' end
  local refusal = sessions.refusal(s, epoch)
  if refusal then return refusal end
  if not seq then return 'INVALID_MESSAGE field=seq limit=a whole number' end
  if not outbox.is_confirmable(chunk.confirmed) then
    return 'INVALID_MESSAGE field=confirmed limit=an entry id or empty'
  end
  if seq < s.next_seq then return nil, true end
  if postponed and postponed[chunk.session] then return nil end
  if seq > s.next_seq then return 'SEQ_GAP expected=' .. string.format('%d', s.next_seq) end
  if #chunk.payload > payload_max then return 'CHUNK_TOO_LARGE limit=65536 B' end
  if is_final and chunk.end_of_utterance ~= '1'
    and not validate.is_traceparent(chunk.end_of_utterance) then
    return 'INVALID_MESSAGE field=end_of_utterance limit=0, 1 or a W3C traceparent'
  end
  if not ms or (ms < 20 and not is_final) then
    return 'INVALID_MESSAGE field=ms limit=20 to 1000 ms'
  end
  if #chunk.payload == 0 and not is_final then
    return 'INVALID_MESSAGE field=payload limit=only a final chunk may be empty'
  end
  return outcomes_refusal(s, chunk, ms, is_final)
end

-- Whether another call has to store the chunk. The first finalizes of a call always have room.
local function must_wait(s, chunk, ms, is_final)
  if delivery.finalized == 0 then return false end
  if postponed and postponed[chunk.session] then return true end
  if delivery.has_room(utterances.count_finalizes(s, ms, is_final, #chunk.payload)) then
    return false
  end
  postponed = postponed or {}
  postponed[chunk.session] = true
  return true
end

local function append(chunk)
  local epoch, seq = validate.int(chunk.epoch, 0, 1e9), validate.int(chunk.seq, 0, 1e12)
  local ms, s = validate.int(chunk.ms, 0, 1000), sessions.get(chunk.session, true)
  local is_final = chunk.end_of_utterance ~= '0'
  local refusal, is_duplicate = check(s, chunk, epoch, seq, ms, is_final)
  if refusal then return 'refused ' .. refusal end
  if not is_duplicate and must_wait(s, chunk, ms, is_final) then
    return 'later ' .. string.format('%d', s.next_seq)
  end
  if not is_duplicate then
    utterances.check_next(s, ms, is_final, #chunk.payload)
  end
  -- What the listener has read is freed first: it may be what the tenant has too much of.
  outbox.confirm(chunk.session, chunk.confirmed)
  if is_duplicate then return 'duplicate ' .. numbers.text[s.utterance] end
  refusal = backpressure.refusal(s.tenant)
  if refusal then return 'refused ' .. refusal end
  local tp = is_final and chunk.end_of_utterance ~= '1' and chunk.end_of_utterance or nil
  local finalized = utterances.append(s, seq, ms, is_final, chunk.payload, tp)
  return 'ok ' .. numbers.text[s.utterance] .. finalized
end

local replies = {}
for i, chunk in each_chunk(ARGV) do
  local reply, refusal = damage.guard(append, chunk)
  replies[i] = reply or 'refused ' .. refusal
end
return replies
