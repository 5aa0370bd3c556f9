#!lua
-- open_session: a producer opens a session under a name and a token of its making (rules 7, 12).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   name            name                   128 random bits
--   token           text                   the same token again gets the same reply
--   tenant          name
--   source          language
--   targets         languages, joined by comma, sorted
--   features        names, joined by comma, sorted (the session's features)
--   features_hash   16 hex digits or none
--   encoding        pcm16 | opus
--   sample_rate     Hz
--   priority        0 | 1 | 2
--   room            full id or empty
--   listen_language language or empty
--   tp              traceparent or empty
--   key_id          16 hex digits of the key that encrypts the session, or empty
-- Reply: [epoch, next_seq, utterance, out_id]
-- Refusals: INVALID_MESSAGE, SESSION_CLOSED, BACKPRESSURE
-- Events: SessionOpened, RoomJoined
-- Bound: constant
-- include: affinity
-- include: clock
-- include: events
-- include: keys
-- include: sessions
-- include: settings
-- include: text
-- include: timers
-- include: write
local members_max = 32
local targets_max, features_max = 8, 16
local s = sessions.get(name)
if s then
  local granted = sessions.epoch_of(s, token)
  if not granted then return text.invalid('session', 'this id exists with another token') end
  if s.status ~= 'open' then return text.refuse('SESSION_CLOSED') end
  return { granted, s.next_seq, s.utterance, '0-0' }
end
local sample_rate_hz, priority_no = text.int(sample_rate, 8000, 48000), text.int(priority, 0, 2)
if not text.is_name(name) then return text.invalid('session', 'a name') end
if not text.is_name(token) then return text.invalid('token', 'a name') end
if not text.is_name(tenant) then return text.invalid('tenant', 'a name') end
if not text.is_language(source) then return text.invalid('source', 'a language') end
if not text.all(targets, targets_max, text.is_target) then
  return text.invalid('targets', 'up to 8 languages, never auto')
end
if not text.all(features, features_max, text.is_name) then
  return text.invalid('features', 'up to 16 names')
end
local hex_16 = '^' .. string.rep('%x', 16) .. '$'
if features_hash ~= 'none' and not string.match(features_hash, hex_16) then
  return text.invalid('features_hash', '16 hex digits or none')
end
if encoding ~= 'pcm16' and encoding ~= 'opus' then return text.invalid('encoding', 'pcm16 or opus') end
if listen_language ~= '' and not text.is_target(listen_language) then return text.invalid('listen_language', 'a language, never auto') end
if key_id ~= '' and not string.match(key_id, hex_16) then
  return text.invalid('key', '16 hex digits or empty')
end
if not sample_rate_hz then return text.invalid('sample_rate', '8000 to 48000 Hz') end
if not priority_no then return text.invalid('priority', '0, 1 or 2') end
local room_name = room ~= '' and keys.name(room) or nil
if room ~= '' and not room_name then return text.invalid('room', 'a room of this cell') end
local why = sessions.pressure(tenant)
if why then return redis.error_reply(why) end
if room_name and redis.call('HLEN', keys.of('room', room_name)) >= members_max then
  return text.invalid('room', '32 members')
end

local now, full = clock.now(), keys.full(name)
-- A small hash is searched from its start: what is asked for most comes first.
write('HSET', keys.of('session', name), 'status', 'open', 'out_no', '0', 'out_bytes', '0',
  'out_low', '0', 'used', '', 'epoch', '1', 'utterance', '0', 'turn', '0',
  'heard', sessions.heard(), 'tenant', tenant, 'tp', tp,
  'source', source, 'targets', targets, 'features', features, 'features_hash', features_hash,
  'encoding', encoding, 'sample_rate', sample_rate_hz, 'priority', priority_no, 'room', room, 'listen_language', listen_language,
  'key', key_id, 'tokens', sessions.tokens_with(nil, token, 1))
affinity.learn(name, '', '')
events.SessionOpened(full, tp, { tenant = tenant, source = source, targets = targets, features = features,
  features_hash = features_hash, encoding = encoding, sample_rate = sample_rate_hz, priority = priority_no, room = room,
  listen_language = listen_language, key = key_id })
if room_name then
  write('HSET', keys.of('room', room_name), full, listen_language)
  events.RoomJoined(full, tp, room, listen_language)
end
timers.set(now + settings.idle_ms, 'idle', full)
return { 1, 0, 0, '0-0' }
