-- settings: the cell's settings, whole numbers.
-- include: flat
-- include: keys
-- include: memory
local function all_settings()
  local told = flat.by_name(redis.call('HGETALL', keys.settings))
  for name, value in pairs(told) do told[name] = tonumber(value) end
  return told
end
local settings = setmetatable({}, { __index = function(_, name)
  return memory.once('settings', all_settings)[name]
end })
return settings
