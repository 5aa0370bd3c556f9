-- log_trim: records that the oldest entries of the log are gone.
-- include: call
-- include: events
-- include: keys
-- include: reply
-- include: write
local log_trim = {}

-- How many entries are gone from the log.
function log_trim.count()
  if redis.call('EXISTS', keys.log) == 0 then return 0 end
  local stream = reply.by_name(redis.call('XINFO', 'STREAM', keys.log))
  return stream['entries-added'] - stream['length']
end

-- How many trimmed entries the log records.
function log_trim.total()
  return tonumber(redis.call('HGET', keys.counters, 'trimmed')) or 0
end

-- Append the event for `count` entries before the id `before`, then store how many are trimmed by
-- now. The entries are gone, so a step that fails is done again in the same call.
function log_trim.record(before, count)
  local total, has_event = log_trim.total() + count, false
  local function complete()
    if not has_event then events.StreamTrimmed('log', before, count, total) end
    has_event = true
    write('HSET', keys.counters, 'trimmed', string.format('%d', total))
  end
  call.or_else(complete, complete)
end
return log_trim
