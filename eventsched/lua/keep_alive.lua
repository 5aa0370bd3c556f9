#!lua flags=allow-oom
-- keep_alive: producers that have sent nothing for a while are still there (rule 8).
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   then per session: name, epoch, confirmed (out id or empty)
-- Reply: per session `ok` or `refused CODE key=value`
-- Refusals: SESSION_UNKNOWN, SESSION_SUPERSEDED, SESSION_CLOSED, INVALID_MESSAGE
-- Events: none
-- Bound: the sessions given, at most 512
local log_key = KEYS[1]
local now_arg = ARGV[1]
local width, sessions_max = 3, 512
-- include: clock
-- include: deliver
-- include: sessions
-- include: text
if (#ARGV - 1) % width ~= 0 or #ARGV - 1 > sessions_max * width then
  return text.invalid('sessions', 'up to 512, of 3 arguments each')
end

-- Why this session is not kept alive, or nil.
local function check(s, epoch, confirmed)
  if not epoch then return 'INVALID_MESSAGE field=epoch limit=a whole number' end
  if not deliver.is_confirmable(confirmed) then
    return 'INVALID_MESSAGE field=confirmed limit=an entry id or empty'
  end
  return sessions.refusal(s, epoch)
end

local replies = {}
for at = 2, #ARGV, width do
  local name, epoch = ARGV[at], text.int(ARGV[at + 1], 0, 1e9)
  local s = sessions.get(name)
  local why = check(s, epoch, ARGV[at + 2])
  if why then
    replies[#replies + 1] = 'refused ' .. why
  else
    s.seen, s.dirty = clock.now(), true
    deliver.confirm(name, ARGV[at + 2])
    replies[#replies + 1] = 'ok'
  end
end
return replies
