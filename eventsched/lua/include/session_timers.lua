-- session_timers: what happens when a timer of a session fires: pause (rule 2), idle (rule 8),
-- playback (rule 5).
-- include: clock
-- include: closing
-- include: keys
-- include: playback
-- include: sessions
-- include: settings
-- include: timers
-- include: utterances
local session_timers = {}

-- No chunk came for a while: the open utterance ends. A later chunk has moved the time.
function session_timers.pause(full)
  local s = sessions.get(keys.name(full))
  if not s or s.status ~= 'open' or s.buf_bytes == 0 or playback.is_active(s) then return end
  local due = s.buf_at + settings.pause_ms
  if due > clock.now() then return timers.set(due, 'pause', full) end
  utterances.finalize(s, 'pause')
end

-- The producer was not there for a while: the session closes.
function session_timers.idle(full)
  local s = sessions.get(keys.name(full))
  if not s or s.status ~= 'open' then return end
  local due = s.seen + settings.idle_ms
  if due > clock.now() then return timers.set(due, 'idle', full) end
  closing.start(s, 'idle')
end

-- No report came that the playback has ended.
function session_timers.playback(id)
  local full, field = string.match(id, '^(.-)|(.*)$')
  local s = sessions.get(keys.name(full))
  if s and redis.call('HEXISTS', keys.of('playing', s.name), field) == 1 then
    playback.finish(s, field, 'deadline')
  end
end
return session_timers
