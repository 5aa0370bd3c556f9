#!lua flags=allow-oom
-- keep_alive: keep sessions open whose producers have sent nothing for a while (rule 8, idle
-- sessions).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   then per session, at most 32: name, epoch, confirmed (id of an outbox entry, or empty)
-- Reply: per session `ok` or `refused CODE key=value`
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: none
-- Bound: the sessions given, at most 32
-- include: damage
-- include: outbox
-- include: sessions
-- include: validate

-- Why the session is not kept alive, or nil.
local function check(s, epoch, confirmed)
  if not epoch then return 'INVALID_MESSAGE field=epoch limit=a whole number' end
  if not outbox.is_confirmable(confirmed) then
    return 'INVALID_MESSAGE field=confirmed limit=an entry id or empty'
  end
  return sessions.refusal(s, epoch)
end

local function take(session)
  local s, epoch = sessions.get(session.name), validate.int(session.epoch, 0, 1e9)
  local refusal = check(s, epoch, session.confirmed)
  if refusal then return 'refused ' .. refusal end
  sessions.touch(s)
  outbox.confirm(session.name, session.confirmed)
  return 'ok'
end

local replies = {}
for i, session in each_session(ARGV) do
  local reply, refusal = damage.guard(take, session)
  replies[i] = reply or 'refused ' .. refusal
end
return replies
