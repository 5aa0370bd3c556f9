-- playback: synthesised speech that plays at the listener of a session. While a playback is open, a
-- pause does not end an utterance (rule 5, no pause during playback). The field of a playback is
-- `origin/target/utterance`. The field `playbacks_started` of a session counts its starts.
-- include: call
-- include: clock
-- include: events
-- include: keys
-- include: sessions
-- include: settings
-- include: timers
-- include: validate
-- include: write
local playback = {}
local open_max = 64
-- A listener starts each result of its outbox once, and so many more times.
local repeats_max = 128

-- Check the arguments, all texts, of the start and of the end of a playback. Returns the refusal,
-- or nil and the number of the utterance.
function playback.check(s, epoch_arg, origin, target, utterance)
  local epoch, number = validate.int(epoch_arg, 0, 1e9), validate.int(utterance, 0, 1e12)
  if not epoch then return validate.invalid('epoch', 'a whole number') end
  if not number then return validate.invalid('utterance', 'a whole number') end
  if not validate.is_target(target) then
    return validate.invalid('target', 'a language, never auto')
  end
  if not keys.name(origin) then return validate.invalid('origin', 'a session of this cell') end
  local refusal = sessions.refusal(s, epoch)
  if refusal then return redis.error_reply(refusal) end
  return nil, number
end

function playback.field(origin, target, utterance)
  return origin .. '/' .. target .. '/' .. string.format('%d', utterance)
end

function playback.is_open(s, field)
  return redis.call('HEXISTS', keys.of('playing', s.name), field) == 1
end

function playback.is_active(s)
  return redis.call('EXISTS', keys.of('playing', s.name)) == 1
end

-- The refusal of a further start in the session, or nil. So the events of playbacks are bounded by
-- the results that the session has received.
function playback.start_refusal(s)
  if redis.call('HLEN', keys.of('playing', s.name)) >= open_max then
    return validate.invalid('playback', '64 open at once')
  end
  local counts = redis.call('HMGET', keys.of('session', s.name), 'playbacks_started', 'out_no')
  if (tonumber(counts[1]) or 0) >= (tonumber(counts[2]) or 0) + repeats_max then
    return validate.invalid('playback', 'one start for each result received, and 128 more')
  end
  return nil
end

function playback.start(s, field, origin, target, utterance)
  local until_ms, playing = clock.now() + settings.playback_ms, keys.of('playing', s.name)
  timers.set(until_ms, 'playback', s.full .. '|' .. field)
  write('HSET', playing, field, string.format('%d', until_ms))
  local is_counted = false
  call.or_else(function()
    write('HDEL', playing, field)
    if is_counted then write('HINCRBY', keys.of('session', s.name), 'playbacks_started', -1) end
  end, function()
    write('HINCRBY', keys.of('session', s.name), 'playbacks_started', 1)
    is_counted = true
    events.PlaybackStarted(s, origin, target, utterance, until_ms)
  end)
end

-- `reason` is ended, deadline or closed. A field of another form is removed without an event.
function playback.finish(s, field, reason)
  local origin, target, utterance = string.match(field, '^(.-)/(.-)/(%d+)$')
  local playing = keys.of('playing', s.name)
  local until_ms = redis.call('HGET', playing, field)
  write('HDEL', playing, field)
  if not origin then return end
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
