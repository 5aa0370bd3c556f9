#!lua flags=allow-oom
-- resume_session: a producer takes a session over. Producers with older epochs can no longer append
-- (rule 7, resumable sessions). A wrong secret gets the reply of a session that does not exist.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            name
--   secret          32 hex digits          the resume secret, of which the session has the SHA-1
--   token           name                   the same token again gets the same reply
-- Reply: [epoch, next_seq, utterance, out_id]   out_id: the last entry that the listener has read
-- Refusals: SESSION_UNKNOWN, SESSION_CLOSED, INVALID_MESSAGE, BACKPRESSURE
-- Events: SessionResumed
-- Bound: constant
-- include: call
-- include: clock
-- include: events
-- include: keys
-- include: sessions
-- include: tokens
-- include: validate
-- include: write
-- A session is resumed so many times at once, and then once in each further interval. Backpressure
-- refuses no resume, because work in flight needs its producer.
local burst_max, interval_ms = 16, 10000

if not validate.is_hex(secret, 32) then return validate.invalid('secret', '32 hex digits') end
if not validate.is_name(token) then return validate.invalid('token', 'a name') end
local s = sessions.get(name)
if not s or s.secret_sha1 ~= redis.sha1hex(secret) then
  return validate.refuse('SESSION_UNKNOWN')
end
if s.status ~= 'open' then return validate.refuse('SESSION_CLOSED') end
local epoch = tokens.epoch_of(s, token)
if not epoch then
  epoch = s.epoch + 1
  local session, field = keys.of('session', name), tokens.with(s, token, epoch)
  -- The time at which no earlier resume counts any more.
  local resumes_until = tonumber(redis.call('HGET', session, 'resumes_until')) or 0
  local clear_ms = math.max(clock.now(), resumes_until)
  local wait_ms = clear_ms - clock.now() - (burst_max - 1) * interval_ms
  if wait_ms > 0 then
    return validate.refuse('BACKPRESSURE',
      'cause=session_resumes retry_after_ms=' .. string.format('%d', wait_ms))
  end
  local old_epoch, old_tokens = s.epoch, s.tokens
  write('HSET', session, 'epoch', epoch, 'tokens', field, 'resumes_until',
    string.format('%d', clear_ms + interval_ms))
  call.or_else(function()
    write('HSET', session, 'epoch', old_epoch, 'tokens', old_tokens)
  end, events.SessionResumed, s, epoch)
  s.epoch, s.tokens = epoch, field
  sessions.touch(s)
end
local confirmed = redis.call('HGET', keys.of('session', name), 'confirmed')
return { epoch, s.next_seq, s.utterance, confirmed or '0-0' }
