-- playback: synthesised speech that plays at the listener of a session. While a playback is open, a
-- pause does not end an utterance (rule 5, no pause during playback). The field of a playback is
-- `origin/target/utterance`.
-- include: call
-- include: clock
-- include: events
-- include: keys
-- include: settings
-- include: timers
-- include: write
local playback = {}

function playback.is_active(s)
  return redis.call('EXISTS', keys.of('playing', s.name)) == 1
end

function playback.start(s, field, origin, target, utterance)
  local until_ms, playing = clock.now() + settings.playback_ms, keys.of('playing', s.name)
  timers.set(until_ms, 'playback', s.full .. '|' .. field)
  write('HSET', playing, field, string.format('%d', until_ms))
  call.or_else(function() write('HDEL', playing, field) end, events.PlaybackStarted, s,
    origin, target, utterance, until_ms)
end

-- `reason` is ended, deadline or closed.
function playback.finish(s, field, reason)
  local origin, target, utterance = string.match(field, '^(.-)/(.-)/(%d+)$')
  local playing = keys.of('playing', s.name)
  local until_ms = redis.call('HGET', playing, field)
  write('HDEL', playing, field)
  call.or_else(function() write('HSET', playing, field, until_ms) end, events.PlaybackEnded,
    s, origin, target, utterance, reason)
  timers.cancel('playback', s.full .. '|' .. field)
  if s.buf_count > 0 and reason ~= 'closed' then
    timers.set(math.max(clock.now(), s.buf_at + settings.pause_ms), 'pause', s.full)
  end
end

-- The session has closed.
function playback.finish_all(s)
  for _, field in ipairs(redis.call('HKEYS', keys.of('playing', s.name))) do
    playback.finish(s, field, 'closed')
  end
end
return playback
