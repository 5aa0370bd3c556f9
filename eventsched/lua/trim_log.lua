#!lua flags=allow-oom
-- trim_log: remove entries from the beginning of the log. An entry is removed only if every
-- consumer group has passed and saved it; if the archive holds it or, without an archive, if it is
-- older than `log_retention_ms`; and if it is older than `log_keep_ms`.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
-- Reply: [entries trimmed, 1 if there may be more, id before which all may go]
-- Refusals: INVALID_MESSAGE
-- Events: StreamTrimmed
-- Bound: 10,000 entries; the groups of the log
-- include: clock
-- include: entry_ids
-- include: keys
-- include: log_trim
-- include: reply
-- include: settings
-- include: write
local trimmed_max = 10000

-- A log of one entry stays: each trimming adds its event, which the next one would remove.
if redis.call('XLEN', keys.log) < 2 then return { 0, 0, '0-0' } end
local now = clock.now()
local floor = string.format('%d-0', math.max(0, now - settings.log_keep_ms))
local function keep_from(id)
  if entry_ids.precedes(id, floor) then floor = id end
end

local archived_to = redis.call('HGET', keys.archive, 'to')
local retention_ms = settings.log_retention_ms
if archived_to then
  keep_from(entry_ids.successor(archived_to))
elseif retention_ms > 0 then
  keep_from(string.format('%d-0', math.max(0, now - retention_ms)))
else
  return { 0, 0, '0-0' }
end

-- A group of another program may have entries that are not acknowledged: the earliest of its
-- position and its pending entries counts. A set acknowledges by its checkpoint, and its group may
-- be ahead of it. A running rebuild reads the log from its start, without a group.
for _, group_reply in ipairs(redis.call('XINFO', 'GROUPS', keys.log)) do
  local group = reply.by_name(group_reply)
  keep_from(entry_ids.successor(group['last-delivered-id']))
  local checkpoint = redis.call('GET', keys.of('checkpoint', group.name))
  if checkpoint then
    keep_from(entry_ids.successor(checkpoint))
  elseif group.pending > 0 then
    keep_from(redis.call('XPENDING', keys.log, group.name)[2])
  end
  local rebuild = 'rebuild-' .. group.name
  local until_ms = redis.call('HGET', keys.of('lease', rebuild), 'until')
  if until_ms and tonumber(until_ms) > now then
    keep_from(entry_ids.successor(redis.call('GET', keys.of('checkpoint', rebuild)) or '0-0'))
  end
end

local function first_id()
  local first = redis.call('XRANGE', keys.log, '-', '+', 'COUNT', 1)[1]
  return first and first[1] or floor
end

-- A user without the right to read the log is refused here, before anything is removed.
if not entry_ids.precedes(first_id(), floor) then return { 0, 0, floor } end
-- `~` removes only whole nodes of the stream, and no node that reaches beyond the floor.
local count = write('XTRIM', keys.log, 'MINID', '~', floor, 'LIMIT', trimmed_max)
if count == 0 then return { 0, 0, floor } end
local before = first_id()
log_trim.record(before, count)
local is_more = entry_ids.precedes(before, floor) and count >= trimmed_max / 2
return { count, is_more and 1 or 0, floor }
