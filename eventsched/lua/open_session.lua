#!lua
-- open_session: open a session under the name and the token that the producer chose (rules 7,
-- resumable sessions; 12, audience).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   name            name                   128 random bits
--   token           name                   the same token again gets the same reply
--   secret_sha1     40 hex digits          SHA-1 of the secret that resumes the session
--   tenant          name
--   source          language
--   targets         languages, joined by comma, sorted, each once
--   features        names, joined by comma, sorted, each once; at most 1,039 B
--   features_hash   16 hex digits or none
--   encoding        pcm16 | opus
--   sample_rate     Hz
--   priority        0 | 1 | 2
--   room            `<cell>.<tenant>/<name>` with the tenant of the session, or empty
--   listen_language language or empty
--   tp              traceparent or empty
--   key_id          16 hex digits of the key that encrypts the session, or empty
-- Reply: [epoch, next_seq, utterance, out_id]
-- Refusals: INVALID_MESSAGE, SESSION_CLOSED, BACKPRESSURE
-- Events: SessionOpened, RoomJoined
-- Bound: constant
-- include: affinity
-- include: backpressure
-- include: call
-- include: clock
-- include: events
-- include: keys
-- include: sessions
-- include: settings
-- include: timers
-- include: tokens
-- include: validate
-- include: write
local members_max = 32
local targets_max, features_max = 8, 16
local s = sessions.get(name)
if s then
  local epoch = tokens.epoch_of(s, token)
  if not epoch then
    return validate.invalid('session', 'this id exists with another token')
  end
  if s.status ~= 'open' then return validate.refuse('SESSION_CLOSED') end
  return { epoch, s.next_seq, s.utterance, '0-0' }
end
local sample_rate_hz = validate.int(sample_rate, 8000, 48000)
local priority_no = validate.int(priority, 0, 2)
if not validate.is_name(name) then return validate.invalid('session', 'a name') end
if not validate.is_name(token) then return validate.invalid('token', 'a name') end
if not validate.is_hex(secret_sha1, 40) then
  return validate.invalid('secret_sha1', '40 hex digits')
end
if not validate.is_name(tenant) then return validate.invalid('tenant', 'a name') end
if not validate.is_language(source) then return validate.invalid('source', 'a language') end
if not validate.sorted_list_of(targets, targets_max, validate.is_target) then
  return validate.invalid('targets', 'up to 8 languages, never auto, sorted by bytes, each once')
end
if not validate.sorted_list_of(features, features_max, validate.is_name) then
  return validate.invalid('features', 'up to 16 names, sorted by bytes, each once')
end
if features_hash ~= 'none' and not validate.is_hex(features_hash, 16) then
  return validate.invalid('features_hash', '16 hex digits or none')
end
if encoding ~= 'pcm16' and encoding ~= 'opus' then
  return validate.invalid('encoding', 'pcm16 or opus')
end
if listen_language ~= '' and not validate.is_target(listen_language) then
  return validate.invalid('listen_language', 'a language, never auto')
end
if key_id ~= '' and not validate.is_hex(key_id, 16) then
  return validate.invalid('key', '16 hex digits or empty')
end
if tp ~= '' and not validate.is_traceparent(tp) then
  return validate.invalid('tp', 'a W3C traceparent or empty')
end
if not sample_rate_hz then return validate.invalid('sample_rate', '8000 to 48000 Hz') end
if not priority_no then return validate.invalid('priority', '0, 1 or 2') end
local room_key, of_tenant = keys.room(room), keys.full(tenant) .. '/'
if room ~= '' and not (room_key and string.sub(room, 1, #of_tenant) == of_tenant) then
  return validate.invalid('room', 'a room of this cell and tenant')
end
local refusal = backpressure.refusal(tenant) or backpressure.sessions_refusal(tenant)
if refusal then return redis.error_reply(refusal) end
if room_key and redis.call('HLEN', room_key) >= members_max then
  return validate.invalid('room', '32 members')
end

local now, full = clock.now(), keys.full(name)
timers.set(now + settings.idle_ms, 'idle', full)
if room_key then write('HSET', room_key, full, listen_language) end
-- A small hash is searched from its start, so the fields that are read most come first.
write('HSET', keys.of('session', name), 'status', 'open', 'out_no', '0', 'out_bytes', '0',
  'out_low', '0', 'used', '', 'epoch', '1', 'utterance', '0', 'turn', '0',
  'buffer', sessions.encode_buffer(), 'tenant', tenant, 'tp', tp,
  'source', source, 'targets', targets, 'features', features, 'features_hash', features_hash,
  'encoding', encoding, 'sample_rate', sample_rate_hz, 'priority', priority_no, 'room', room,
  'listen_language', listen_language, 'key', key_id, 'secret_sha1', secret_sha1,
  'tokens', tokens.with(nil, token, 1))
affinity.start(name)
local of_same_tenant = keys.of('tenant_sessions', tenant)
local function open(fields)
  write('SADD', of_same_tenant, name)
  events.SessionOpened(full, tp, fields)
end
local function undo()
  write('SREM', of_same_tenant, name)
  write('DEL', keys.of('session', name))
  if room_key then write('HDEL', room_key, full) end
end
call.or_else(undo, open, { tenant = tenant, source = source, targets = targets,
  features = features, features_hash = features_hash,
  encoding = encoding, sample_rate = sample_rate_hz, priority = priority_no, room = room,
  listen_language = listen_language, key = key_id })
if room_key then events.RoomJoined(full, tp, room, listen_language) end
return { 1, 0, 0, '0-0' }
