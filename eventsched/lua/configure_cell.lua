#!lua flags=allow-oom
-- configure_cell: create the cell, or set its settings. An existing cell keeps its settings, and
-- gets the settings of a newer version that it lacks and the consumer group of the dispatch queue.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     starting time of a manual clock, else empty
--   mode            server | manual        clock of a new cell
--   overwrite       0 | 1                  1: replace the settings of a cell that exists
--   settings_json   JSON                   object of name -> integer, at most 16,384 B
-- Reply: created | changed | kept
-- Refusals: INVALID_MESSAGE
-- Events: none (settings and clock are ephemeral state)
-- Bound: the number of settings
-- include: cache
-- include: clock
-- include: groups
-- include: keys
-- include: reply
-- include: validate
-- include: write
if mode ~= 'server' and mode ~= 'manual' then
  return validate.invalid('mode', 'server or manual')
end
local is_json, values = pcall(cjson.decode, settings_json)
if not is_json or type(values) ~= 'table' then
  return validate.invalid('settings', 'a JSON object')
end
for name, value in pairs(values) do
  local is_whole = type(value) == 'number' and value % 1 == 0 and math.abs(value) < 1e14
  if not is_whole or type(name) ~= 'string' or not validate.is_name(name) then
    return validate.invalid('settings', 'names with whole numbers below 1e14')
  end
end
local clock_mode, _, _, generation = clock.record()
local exists = clock_mode ~= ''
groups.create(keys.dispatch, 'dispatch', '0')
local stored, changed = reply.by_name(redis.call('HGETALL', keys.settings)), {}
for name, value in pairs(values) do
  local text = string.format('%d', value)
  if not stored[name] or overwrite == '1' and stored[name] ~= text then
    changed[#changed + 1] = name
    changed[#changed + 1] = text
  end
end
if exists then
  -- A program that starts with the stored settings writes nothing, and the cache stays valid.
  if changed[1] then cache.write_stable('HSET', keys.settings, unpack(changed)) end
  return overwrite == '1' and 'changed' or 'kept'
end
-- The record of the clock comes last: without it no other script accepts the cell.
if changed[1] then write('HSET', keys.settings, unpack(changed)) end
clock.write_record(mode, '0', now_arg ~= '' and now_arg or '0', cache.new_generation(generation))
return 'created'
