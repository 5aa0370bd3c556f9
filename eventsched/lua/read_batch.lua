#!lua flags=allow-oom
-- read_batch: the next entries of the log for the one that folds the set, and its hold renewed.
-- Reading is inside the fence: a woken zombie would else take entries that the live one then never
-- sees. What was read and not saved comes first, again.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     honoured in a manual cell only
--   set             name                   also its consumer group's
--   epoch           number                 of the caller's hold
--   count           1 to 1000
--   hold_ms         ms
-- Reply: [fenced] or [read, entries as XRANGE gives them]
-- Refusals: none
-- Events: none
-- Bound: count
local log_key = KEYS[1]
local now_arg, set, epoch, count, hold_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local consumer = 'projector'
-- include: clock

local active = keys.of('active', set)
if redis.call('HGET', active, 'epoch') ~= epoch then
  return { 'fenced' }
end
write('HSET', active, 'until', string.format('%d', clock.now() + hold_ms))

local function read(from)
  local reply = redis.call('XREADGROUP', 'GROUP', set, consumer, 'COUNT', count, 'STREAMS', log_key,
    from)
  return reply and reply[1][2] or {}
end

local entries = read('0')
if #entries == 0 then entries = read('>') end
return { 'read', entries }
