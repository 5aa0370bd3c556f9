#!lua flags=allow-oom
-- fire_timers: call the handlers of the timers that are due, in order, a bounded number at a time.
-- A timer whose cause has ended has no effect. An error becomes a dead letter. The modules of the
-- handlers name the rules (include/timer_handlers.lua).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
-- Reply: [fired, next_ms, now_ms]   next_ms: when the next is due, or -1
-- Refusals: none
-- Events: any but those of opening, resuming, registering and results
-- Bound: 16 timers; 16 leases of 256, 32 outcomes or 256 keys each, and the open outcomes of a
--   session; 8 jobs of utterances that end, each with 64 requirements and 8 fills
-- include: clock
-- include: dead_letters
-- include: keys
-- include: timer_handlers
-- include: write
local fired_max = '16'

-- A timer is removed before its handler runs, because the handler may set the timer again.
local function fire(member, due_ms)
  local kind, id = string.match(member, '^(%a+)|(.*)$')
  write('ZREM', keys.timers, member)
  return dead_letters.guard('timers', member, 'timer', '', timer_handlers[kind], id, due_ms)
end

local now = clock.now()
local due = redis.call('ZRANGEBYSCORE', keys.timers, '-inf', clock.text(), 'LIMIT', '0', fired_max)
local fired = 0
for _, member in ipairs(due) do
  fired = fired + 1
  -- An earlier handler may have cancelled this timer, or set it to a later time.
  local due_ms = tonumber(redis.call('ZSCORE', keys.timers, member))
  if due_ms and due_ms <= now then
    local is_done, ends_call = fire(member, due_ms)
    if is_done and ends_call then break end
  end
end
-- Sessions that close at commit set and cancel timers as well.
return function()
  local next_due = redis.call('ZRANGE', keys.timers, 0, 0, 'WITHSCORES')
  return { fired, next_due[2] and tonumber(next_due[2]) or -1, now }
end
