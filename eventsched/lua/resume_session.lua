#!lua flags=allow-oom
-- resume_session: a producer takes a session over; producers with older epochs can no longer append
-- (rule 7).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            name
--   token           text                   the same token again gets the same reply
-- Reply: [epoch, next_seq, utterance, out_id]   out_id: the last that its listener has handled
-- Refusals: SESSION_UNKNOWN, SESSION_CLOSED, INVALID_MESSAGE
-- Events: SessionResumed
-- Bound: constant
-- include: events
-- include: keys
-- include: sessions
-- include: tokens
-- include: validate
-- include: write
local s = sessions.get(name)
if not s then return validate.refuse('SESSION_UNKNOWN') end
if s.status ~= 'open' then return validate.refuse('SESSION_CLOSED') end
if not validate.is_name(token) then return validate.invalid('token', 'a name') end
local granted = tokens.epoch_of(s, token)
if not granted then
  granted = s.epoch + 1
  local field = tokens.with(s, token, granted)
  write('HSET', keys.of('session', name), 'epoch', granted, 'tokens', field)
  s.epoch, s.tokens = granted, field
  sessions.touch(s)
  events.SessionResumed(s, granted)
end
local confirmed = redis.call('HGET', keys.of('session', name), 'confirmed')
return { granted, s.next_seq, s.utterance, confirmed or '0-0' }
