#!lua flags=allow-oom
-- resume_session: a producer takes a session over; older epochs can no longer append (rule 7).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   name            name
--   token           text                   the same token again gets the same reply
-- Reply: [epoch, next_seq, utterance, out_id]   out_id: last that its listener has handled
-- Refusals: SESSION_UNKNOWN, SESSION_CLOSED, INVALID_MESSAGE
-- Events: SessionResumed
-- Bound: constant
-- include: clock
-- include: events
-- include: keys
-- include: sessions
-- include: validate
-- include: write
local s = sessions.get(name)
if not s then return validate.refuse('SESSION_UNKNOWN') end
if s.status ~= 'open' then return validate.refuse('SESSION_CLOSED') end
if not validate.is_name(token) then return validate.invalid('token', 'a name') end
local granted = sessions.epoch_of(s, token)
if not granted then
  granted = s.epoch + 1
  local tokens = sessions.tokens_with(s, token, granted)
  write('HSET', keys.of('session', name), 'epoch', granted, 'tokens', tokens)
  s.epoch, s.tokens, s.seen, s.dirty = granted, tokens, clock.now(), true
  events.SessionResumed(s, granted)
end
local confirmed = redis.call('HGET', keys.of('session', name), 'confirmed')
return { granted, s.next_seq, s.utterance, confirmed or '0-0' }
