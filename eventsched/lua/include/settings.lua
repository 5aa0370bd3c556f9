-- settings: the cell's settings (integers), each read once a call and only when needed.
-- include: call
-- include: keys
local settings = setmetatable({}, {
  __index = function(self, name)
    local value = tonumber(redis.call('HGET', keys.settings, name))
    rawset(self, name, value)
    return value
  end,
})
call.starts_with(function()
  for name in pairs(settings) do settings[name] = nil end
end)
