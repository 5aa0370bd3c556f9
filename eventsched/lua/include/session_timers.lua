-- session_timers: the timers of a session: pause (rule 2, finalize reasons), idle (rule 8, idle
-- sessions), playback (rule 5, no pause during playback).
-- include: clock
-- include: closing
-- include: keys
-- include: playback
-- include: sessions
-- include: settings
-- include: timers
-- include: utterances
local session_timers = {}

-- No chunk came within `pause_ms`: the open utterance is finalized. If a later chunk came, the
-- timer is set again.
function session_timers.pause(full)
  local s = sessions.get(keys.name(full), true)
  if not s or s.status ~= 'open' or s.buf_bytes == 0 or playback.is_active(s) then return end
  local due = s.buf_at + settings.pause_ms
  if due > clock.now() then return timers.set(due, 'pause', full) end
  utterances.finalize(s, 'pause')
end

-- No sign of the producer came within `idle_ms`: the session closes.
function session_timers.idle(full)
  local s = sessions.get(keys.name(full), true)
  if not s or s.status ~= 'open' then return end
  local due = s.seen_at + settings.idle_ms
  if due > clock.now() then return timers.set(due, 'idle', full) end
  closing.start(s, 'idle')
end

-- The end of the playback was not reported before its deadline.
function session_timers.playback(id)
  local full, field = string.match(id, '^(.-)|(.*)$')
  local s = sessions.get(keys.name(full))
  if s and redis.call('HEXISTS', keys.of('playing', s.name), field) == 1 then
    playback.finish(s, field, 'deadline')
  end
end
return session_timers
