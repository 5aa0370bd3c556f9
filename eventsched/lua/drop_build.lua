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
--   then per projection of the set: name
-- Reply: [fenced] or [dropped, cursor of the next step (0: done), number of records removed]
-- Refusals: none
-- Events: none
-- Bound: 256 keys looked at
local log_key = KEYS[1]
local now_arg, build_set, epoch, hold_ms, cursor = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local looked_max = 256
-- include: clock
-- include: keys
-- include: write

local active = keys.of('lease', build_set)
if redis.call('HGET', active, 'epoch') ~= epoch then
  return { 'fenced' }
end
write('HSET', active, 'until', string.format('%d', clock.now() + hold_ms))
local live = {}
for i = 6, #ARGV do
  live[ARGV[i]] = redis.call('GET', keys.of('active_revision', ARGV[i])) or ''
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
