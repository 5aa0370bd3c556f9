#!lua flags=allow-oom
-- fire_timers: call the handlers of the timers that are due, in order, a bounded number at a time.
-- A timer whose cause has ended has no effect. A timer whose handler fails, or can do nothing, is
-- due again after a pause that doubles; the first failure becomes a dead letter. The modules of the
-- handlers name the rules (include/timer_handlers.lua).
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
-- Reply: [fired, next_ms, now_ms]   next_ms: when the next is due, or -1
-- Refusals: INVALID_MESSAGE
-- Events: any but those of opening, resuming, registering and results
-- Bound: 16 timers; 16 leases of 256 or 256 keys each; 8 outcomes that end and 16 that were held; 8
--   finalizes or 64 outcomes; 8 jobs of utterances that end, each with 8 fills; 16
--   utterances or 128 job records deleted for each finalize
-- include: call
-- include: clock
-- include: dead_letters
-- include: delivery
-- include: keys
-- include: timer_handlers
-- include: timers
-- include: write
local fired_max, stalled_last = '16', '15'

-- A timer is removed before its handler runs, because the handler may set the timer again. Returns
-- whether the call ends.
local function fire(member, due_ms)
  local kind, id = string.match(member, '^(%a+)|(.*)$')
  write('ZREM', keys.timers, member)
  call.has_written = false
  local is_done, result = pcall(timer_handlers[kind], id, due_ms)
  if not is_done then dead_letters.back_off(member, result) end
  return is_done and result
end

-- Whether timers are stalled. Some that no longer exist are removed: their cause has ended.
local function check_stalled()
  local stalled = redis.call('ZRANGE', keys.stalled_timers, '0', stalled_last)
  for _, member in ipairs(stalled) do
    if not redis.call('ZSCORE', keys.timers, member) then timers.clear_stall(member) end
  end
  return stalled[1] ~= nil
end

local now = clock.now()
local due = redis.call('ZRANGEBYSCORE', keys.timers, '-inf', clock.text(), 'LIMIT', '0', fired_max)
local fired, has_stalled = 0, due[1] ~= nil and check_stalled()
for _, member in ipairs(due) do
  fired = fired + 1
  -- An earlier handler may have cancelled this timer, or set it to a later time.
  local due_ms = tonumber(redis.call('ZSCORE', keys.timers, member))
  if due_ms and due_ms <= now then
    local ends_call = fire(member, due_ms)
    if has_stalled then timers.clear_stall(member) end
    if ends_call or delivery.is_exhausted() then break end
  end
end
-- Sessions that close at commit set and cancel timers as well.
return function()
  local next_due = redis.call('ZRANGE', keys.timers, 0, 0, 'WITHSCORES')
  return { fired, next_due[2] and tonumber(next_due[2]) or -1, now }
end
