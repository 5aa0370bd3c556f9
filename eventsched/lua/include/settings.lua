-- settings: `settings.<name>` is a setting of the cell, a whole number; nil if the cell has none.
-- include: cache
-- include: keys
-- include: reply
local function read()
  local values = reply.by_name(redis.call('HGETALL', keys.settings))
  for name, value in pairs(values) do values[name] = tonumber(value) end
  return values
end

local cached = cache.register_single('settings', 'stable', read)
local settings = setmetatable({}, { __index = function(_, name)
  return cached.read_through()[name]
end })
return settings
