#!lua flags=allow-oom
-- mark_playback: sound begins or ends where this session hears it (rule 5).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   name            session name           where it is heard
--   epoch_arg       number
--   origin          full session id        whose speech it is
--   target          language
--   utterance       number
--   started         0 | 1
-- Reply: ok | duplicate
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: PlaybackStarted, PlaybackEnded
-- Bound: constant
local open_max = 64
-- include: clock
-- include: events
-- include: keys
-- include: sessions
-- include: settings
-- include: timers
-- include: validate
-- include: write
local s, epoch, number = sessions.get(name), validate.int(epoch_arg, 0, 1e9), validate.int(utterance, 0, 1e12)
if not epoch then return validate.invalid('epoch', 'a whole number') end
if not number then return validate.invalid('utterance', 'a whole number') end
if started ~= '0' and started ~= '1' then return validate.invalid('started', '0 or 1') end
if not validate.is_target(target) then return validate.invalid('target', 'a language, never auto') end
if not keys.name(origin) then return validate.invalid('origin', 'a session of this cell') end
local why = sessions.refusal(s, epoch)
if why then return redis.error_reply(why) end
local field = origin .. '/' .. target .. '/' .. string.format('%d', number)
local playing = keys.of('playing', name)
local open = redis.call('HEXISTS', playing, field) == 1
if open == (started == '1') then return 'duplicate' end
if started == '1' and redis.call('HLEN', playing) >= open_max then
  return validate.invalid('playback', '64 open at once')
end

local now = clock.now()
s.seen, s.dirty = now, true
if started == '1' then
  local until_ms = now + settings.playback_ms
  write('HSET', playing, field, string.format('%d', until_ms))
  timers.set(until_ms, 'playback', s.full .. '|' .. field)
  events.PlaybackStarted(s, origin, target, number, until_ms)
else
  sessions.end_playback(s, field, 'ended')
end
return 'ok'
