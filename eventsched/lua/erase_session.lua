#!lua flags=allow-oom
-- erase_session: record in the log that the key of an encrypted session is destroyed. The call
-- appends one event for each of the last 10,000 sessions; a second event would change no view.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            session name
--   key_id          16 hex digits of the destroyed key, as SessionOpened names it
-- Reply: ok | duplicate
-- Refusals: INVALID_MESSAGE
-- Events: SessionErased
-- Bound: constant
-- include: clock
-- include: events
-- include: keys
-- include: sessions
-- include: validate
-- include: write
local sessions_max = 10000
if not validate.is_name(name) then return validate.invalid('session', 'a name') end
if not string.match(key_id, '^' .. string.rep('%x', 16) .. '$') then
  return validate.invalid('key', '16 hex digits')
end
-- A retired session has no record any more; the caller has checked its history.
local s = sessions.get(name)
if s and s.status ~= 'retired' then
  if s.status ~= 'closed' then
    return validate.invalid('session', 'closed first, it is ' .. s.status)
  end
  if s.key ~= key_id then return validate.invalid('key', 'the key of the session') end
end
if redis.call('ZSCORE', keys.erased, name) then return 'duplicate' end

events.SessionErased(keys.full(name), s and s.tp or '', key_id)
write('ZADD', keys.erased, clock.text(), name)
write('ZREMRANGEBYRANK', keys.erased, 0, -sessions_max - 1)
return 'ok'
