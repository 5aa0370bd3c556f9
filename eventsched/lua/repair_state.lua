#!lua flags=allow-oom
-- repair_state: write state that the log implies over the stored state, and record the change. The
-- caller has computed the writes from the fold of the log up to `at`.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   at              log id                 last entry of the fold
--   session         full id or empty       of the event, as the next two
--   job             job key or empty
--   node            full id or empty
--   where_arg       text, at most 1,000 B  of the event, as the next five
--   what            text, at most 1,000 B
--   gives_up        text, at most 1,000 B  or empty
--   accepts         log id or empty
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
--   then sections, each beginning with its number of items:
--     subjects  full ids and job keys: the call is refused if a later entry concerns one
--     guards    key after the prefix of the cell, field, value that the field must have
--     writes    the number of arguments, then command, key after the prefix, more arguments
-- Reply: repaired, or moved (a later entry or another value of a guard: compute the change again)
-- Refusals: INVALID_MESSAGE
-- Events: CellRepaired
-- Bound: the arguments; the waiting requirements of the cell
-- include: cache
-- include: clock
-- include: entry_ids
-- include: events
-- include: keys
-- include: queue
-- include: repair
-- include: validate
-- include: write
local commands = {
  DEL = function(full_key) write('DEL', full_key) end,
  HDEL = function(full_key, ...) write('HDEL', full_key, ...) end,
  HSET = function(full_key, ...) write('HSET', full_key, ...) end,
  SADD = function(full_key, ...) write('SADD', full_key, ...) end,
  SET = function(full_key, ...) write('SET', full_key, ...) end,
  SREM = function(full_key, ...) write('SREM', full_key, ...) end,
  XADD = function(full_key, ...) write('XADD', full_key, clock.entry_id(), ...) end,
  XDEL = function(full_key, ...) write('XDEL', full_key, ...) end,
  XGROUP = function(full_key, ...) write('XGROUP', 'SETID', full_key, ...) end,
  XTRIM = function(full_key, ...) write('XTRIM', full_key, ...) end,
  ZADD = function(full_key, ...) write('ZADD', full_key, ...) end,
  ZREM = function(full_key, ...) write('ZREM', full_key, ...) end,
}
local place = sections_at - 1
local function next_argument()
  place = place + 1
  return ARGV[place]
end
local is_whole = true
local function next_count()
  local count = validate.int(next_argument(), 0, #ARGV)
  is_whole = is_whole and count ~= nil
  return count or 0
end
local function next_list(count)
  local list = {}
  for i = 1, count do list[i] = next_argument() end
  is_whole = is_whole and #list == count
  return list
end

if not entry_ids.is_valid(at) then return validate.invalid('at', 'an entry id') end
local refusal = repair.refusal(why, by, where_arg, what, gives_up)
if refusal then return refusal end
local subjects, guards, writes = next_list(next_count()), {}, {}
for i = 1, next_count() do guards[i] = next_list(3) end
for i = 1, next_count() do
  writes[i] = next_list(next_count())
  if not commands[writes[i][1]] then return validate.invalid('command', 'a command of a repair') end
  is_whole = is_whole and #writes[i] > 1 and (writes[i][1] ~= 'DEL' or #writes[i] == 2)
end
if not is_whole or place ~= #ARGV then
  return validate.invalid('sections', 'whole, with their counts')
end
local has_moved = repair.has_moved(at, subjects)
for _, guard in ipairs(guards) do
  local key, field, value = unpack(guard)
  if (redis.call('HGET', keys.prefix .. key, field) or '') ~= value then has_moved = true end
end
if has_moved then return 'moved' end

-- The event comes first: no change is without one. If a write fails, the next repair completes it.
events.CellRepaired({ session = session, job = job, node = node, where = where_arg, what = what,
  gives_up = gives_up, accepts = accepts, why = why, by = by })
cache.invalidate()
for _, words in ipairs(writes) do
  commands[words[1]](keys.prefix .. words[2], unpack(words, 3))
end
-- The heads of the requirements follow from the queues and the classes.
for _, words in ipairs(writes) do
  local requirement = string.match(words[2], '^waiting:%d:(.*)$')
  local class = string.match(words[2], '^members:(.*)$')
    or string.match(words[2], '^requirements:(.*)$')
  if requirement then queue.rebuild_head(requirement) end
  if class then queue.rebuild_waiting(class) end
end
return 'repaired'
