-- settings: the cell's settings, whole numbers.
-- include: cache
-- include: keys
-- include: reply
local function all_settings()
  local told = reply.by_name(redis.call('HGETALL', keys.settings))
  for name, value in pairs(told) do told[name] = tonumber(value) end
  return told
end
local settings = setmetatable({}, { __index = function(_, name)
  return cache.once('settings', all_settings)[name]
end })
return settings
