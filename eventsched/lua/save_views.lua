#!lua flags=allow-oom
-- save_views: what a batch made of the views, the checkpoint behind it and the place of the set's
-- consumer group, in one step: a crash before it changes nothing, after it nothing is read again.
-- The caller's hold goes on from here.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   set             name
--   group           name                   consumer group; empty for a build, which has none
--   epoch           number                 of the caller's hold
--   from            log id                 checkpoint that the batch starts from; 0-0 at the start
--   to              log id                 checkpoint behind the batch
--   count           number                 entries of the log that the group has passed by it
--   hold_ms         ms                     for so long the caller goes on holding the set
--   then sections, each led by its number of items:
--     builds   projection, build             as they were when the batch was folded
--     puts     projection, build, entity, number of fields, then field, value
--     drops    projection, build, entity
--     trails   session, number of ids, then log id
--     dead     log id, type, d, reason       d is JSON
-- Reply: saved, fenced (another holds the set), moved (the checkpoint is not `from`) or
--   rebuilt (a build was switched: fold again)
-- Refusals: none
-- Events: none (what could not be folded goes to `dead`)
-- Bound: the arguments
local log_key = KEYS[1]
local now_arg, set, group, epoch, from, to = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local count, hold_ms = tonumber(ARGV[7]), tonumber(ARGV[8])
local unpacked_max = 1000
-- include: clock

local at = 8
local function take()
  at = at + 1
  return ARGV[at]
end
local function number()
  return tonumber(take())
end
-- Give the next `n` arguments to `each`, not too many at once: unpack has a limit.
local function take_all(n, each)
  while n > 0 do
    local some_of = math.min(n, unpacked_max)
    each(unpack(ARGV, at + 1, at + some_of))
    at, n = at + some_of, n - some_of
  end
end
local function view()
  local projection, build, entity = take(), take(), take()
  return keys.of('view', projection .. ':' .. build, entity)
end

local active = keys.of('active', set)
local kept = redis.call('HMGET', active, 'epoch', 'passed')
if kept[1] ~= epoch then return 'fenced' end
if (redis.call('GET', keys.of('checkpoint', set)) or '0-0') ~= from then
  return 'moved'
end
for _ = 1, number() do
  local live, build = redis.call('GET', keys.of('live', take())), take()
  -- A live set writes live builds only; a build never writes what readers see.
  if (live == build) ~= (group ~= '') then return 'rebuilt' end
end

if group ~= '' then
  local passed = string.format('%d', (tonumber(kept[2]) or 0) + count)
  write('XGROUP', 'SETID', log_key, group, to, 'ENTRIESREAD', passed)
  write('HSET', active, 'passed', passed)
end
write('HSET', active, 'until', string.format('%d', clock.now() + hold_ms))
for _ = 1, number() do
  local key, fields = view(), number()
  take_all(2 * fields, function(...)
    write('HSET', key, ...)
  end)
end
for _ = 1, number() do
  write('UNLINK', view())
end
for _ = 1, number() do
  local key, ids = keys.of('idx', take()), number()
  take_all(ids, function(...)
    write('RPUSH', key, ...)
  end)
end
for _ = 1, number() do
  local id, kind, d, reason = take(), take(), take(), take()
  write('XADD', keys.dead, string.format('%d-*', clock.now()), 'from', 'log', 'id', id, 'k', kind,
    'd', d, 'reason', reason, 'partial', '0')
end
write('SET', keys.of('checkpoint', set), to)
return 'saved'
