-- settings: the cell's settings (integers), read once a call and only when needed.
-- include: keys
local settings = setmetatable({}, {
  __index = function(self, name)
    local flat = redis.call('HGETALL', keys.settings)
    for i = 1, #flat, 2 do rawset(self, flat[i], tonumber(flat[i + 1])) end
    return rawget(self, name)
  end,
})
