#!lua flags=allow-oom
-- trim_node_indexes: remove the ids of trimmed entries from the indexes of nodes. The call reads
-- only indexes that begin before the log begins. What a failed call leaves, the next call removes.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
-- Reply: how many indexes were trimmed or deleted; 0 if no more are left
-- Refusals: INVALID_MESSAGE
-- Events: none (trimming has appended its own)
-- Bound: 64 nodes, a binary search in the index of each
-- include: entry_ids
-- include: keys
-- include: write
local nodes_max = 64

local first = redis.call('XRANGE', keys.log, '-', '+', 'COUNT', 1)[1]
if not first then return 0 end

-- The position of the first id in the index whose entry is not trimmed.
local function trimmed_count(index, length)
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    if entry_ids.precedes(redis.call('LINDEX', index, middle), first[1]) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- An index that begins in the millisecond of the first entry stays until more is trimmed.
local before = '(' .. string.match(first[1], '^%d+')
local names = redis.call('ZRANGEBYSCORE', keys.node_index_starts, '-inf', before, 'LIMIT', 0,
  nodes_max)
for _, name in ipairs(names) do
  local index = keys.of('node_index', name)
  local length = redis.call('LLEN', index)
  local count = trimmed_count(index, length)
  if count == length then
    write('UNLINK', index)
    write('ZREM', keys.node_index_starts, name)
  else
    write('LTRIM', index, count, -1)
    local starts_ms = string.match(redis.call('LINDEX', index, 0), '^%d+')
    write('ZADD', keys.node_index_starts, starts_ms, name)
  end
end
return #names
