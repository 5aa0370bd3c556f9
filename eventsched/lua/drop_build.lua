#!lua flags=allow-oom
-- drop_build: one step of removing the records of a set's projections that belong to no live
-- build. The last step also forgets how far the build was: the next one begins anew.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   build_set       name
--   epoch           number                 of the caller's hold: nobody else builds meanwhile
--   hold_ms         ms                     more of it
--   cursor          where the last step ended; 0 to begin
--   then per projection: name
-- Reply: [fenced] or [dropped, cursor of the next step (0: done), number of records removed]
-- Refusals: none
-- Events: none
-- Bound: 256 keys looked at
local looked_max = 256
-- include: clock
-- include: keys
-- include: write

local active = keys.of('lease', build_set)
if redis.call('HGET', active, 'epoch') ~= epoch then
  return { 'fenced' }
end
write('HSET', active, 'until', string.format('%d', clock.now() + tonumber(hold_ms)))
local live = {}
for _, projection in each_projection(ARGV) do
  live[projection.name] = redis.call('GET', keys.of('active_revision', projection.name)) or ''
end
local found = redis.call('SCAN', cursor, 'MATCH', keys.of('view', '*'), 'COUNT', looked_max)
local dropped = 0
for _, key in ipairs(found[2]) do
  local projection, build = string.match(key, ':view:([^:]+):([^:]+):')
  if live[projection] and live[projection] ~= build then
    dropped = dropped + write('UNLINK', key)
  end
end
if found[1] == '0' then
  write('DEL', keys.of('checkpoint', build_set))
end
return { 'dropped', found[1], dropped }
