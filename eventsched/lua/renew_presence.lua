#!lua flags=allow-oom
-- renew_presence: the roles of a process are there. Nothing is decided by it: `status` shows which
-- roles run, and when a role that is gone was last seen.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   instance        name                   of the process
--   since_arg       ms                     first renewal of the process; 0: this one
--   then per role, at most 64: name, subject (projection set, or empty), state (running, failing or
--     ended), error (at most 1,024 B, or empty)
-- Reply: since
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: the roles given, at most 64; the roles of the cell, at most 1,088, when a process starts
-- include: clock
-- include: keys
-- include: numbers
-- include: validate
-- include: write
local kept_ms, roles_max, error_max = 3600000, 1024, 1024
local states = { running = true, failing = true, ended = true }
local since_ms = validate.int(since_arg, 0, 1e14)
if not validate.is_name(instance) then return validate.invalid('instance', 'a name') end
if not since_ms then return validate.invalid('since', 'a whole number below 1e14') end
for _, role in each_role(ARGV) do
  if not validate.is_name(role.name) then return validate.invalid('name', 'a name') end
  if role.subject ~= '' and not validate.is_name(role.subject) then
    return validate.invalid('subject', 'a name, or empty')
  end
  if not states[role.state] then
    return validate.invalid('state', 'running, failing or ended')
  end
  if #role.error > error_max or string.find(role.error, '%c') then
    return validate.invalid('error', 'one line of at most 1024 B')
  end
end

local now = clock.now()
if since_ms == 0 then since_ms = now end
for _, role in each_role(ARGV) do
  write('HSET', keys.presence, table.concat({ role.name, role.subject, instance }, '|'),
    table.concat({ clock.text(), numbers.text[since_ms], role.state, role.error }, '|'))
end
if since_arg ~= '0' and redis.call('HLEN', keys.presence) <= roles_max then return since_ms end

-- A process has started, or there are too many roles: drop the ones seen least recently.
local stored = redis.call('HGETALL', keys.presence)
local seen, names = {}, {}
for i = 1, #stored, 2 do
  names[#names + 1] = stored[i]
  seen[stored[i]] = tonumber(string.match(stored[i + 1], '^%d+')) or 0
end
table.sort(names, function(a, b) return seen[a] > seen[b] end)
for i, name in ipairs(names) do
  if i > roles_max or seen[name] < now - kept_ms then write('HDEL', keys.presence, name) end
end
return since_ms
