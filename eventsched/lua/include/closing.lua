-- closing: how a session ends (rule 6, two-step close). A closing session accepts no chunks; it is
-- closed when all its outcomes have ended. Sessions are closed at commit, before `sessions` stores
-- the changes of the call.
-- include: call
-- include: clock
-- include: delivery
-- include: events
-- include: keys
-- include: outbox
-- include: playback
-- include: session_audio
-- include: sessions
-- include: settings
-- include: timers
-- include: utterances
-- include: write
local closing = {}

-- The session accepts no more chunks; buffered audio is finalized. `reason` is asked or idle.
function closing.start(s, reason)
  if s.buf_bytes > 0 then utterances.check_numbers(s) end
  local session = keys.of('session', s.name)
  timers.set(clock.now() + settings.close_wait_ms, 'close', s.full)
  write('HSET', session, 'status', 'closing', 'reason', reason)
  s.status = 'closing'
  local id = call.or_else(function()
    write('HSET', session, 'status', 'open', 'reason', '')
    s.status = 'open'
  end, events.SessionClosing, s, reason)
  closing.finalize(s)
  if s.room ~= '' then
    write('HDEL', keys.room(s.room), s.full)
    events.RoomLeft(s)
  end
  timers.cancel_both('idle', 'pause', s.full)
  outbox.notify(s.name, { state = 'closing', log = id })
  delivery.ended_in[s.name] = true
end

-- Finalize the audio that a closing session has buffered.
function closing.finalize(s)
  if s.buf_bytes > 0 then utterances.finalize(s, 'close') end
end

local function finish(s)
  local session = keys.of('session', s.name)
  playback.finish_all(s)
  local missing = tonumber(redis.call('HGET', session, 'missing')) or 0
  -- The first call of the timer frees the outbox, the second one retires the session.
  local retire_ms = clock.now() + settings.session_retention_ms
  local free_ms = clock.now() + settings.outbox_retention_ms
  timers.set(math.min(free_ms, retire_ms), 'retire', s.full)
  write('HSET', session, 'status', 'closed', 'retire_at', string.format('%d', retire_ms))
  s.status = 'closed'
  local id = call.or_else(function()
    write('HSET', session, 'status', 'closing')
    s.status = 'closing'
  end, events.SessionClosed, s, missing)
  timers.cancel('close', s.full)
  outbox.notify(s.name, { state = 'closed', log = id })
  sessions.evict(s.name)
end

-- Trim the audio of sessions that have no open outcome, and close those that are closing. Bound:
-- the sessions with outcomes that this call has ended.
local function close_finished()
  delivery.complete()
  if not next(delivery.ended_in) then return end
  local names = {}
  for name in pairs(delivery.ended_in) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    if delivery.has_ended(name) then
      local s = sessions.find(name) -- a damaged session stays as it is
      if s then
        session_audio.trim(s)
        if s.status == 'closing' and s.buf_bytes == 0 then finish(s) end
      end
    end
    delivery.ended_in[name] = nil
  end
end

call.on_commit(close_finished)
return closing
