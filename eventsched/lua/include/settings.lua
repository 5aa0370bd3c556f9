-- settings: the cell's settings, whole numbers.
-- include: keys
-- include: standing
-- include: flat
local settings = setmetatable({}, { __index = function(_, name)
  local here = standing.of_cell()
  if not here.settings then
    local told = by_name(redis.call('HGETALL', keys.settings))
    for one, value in pairs(told) do told[one] = tonumber(value) end
    here.settings = told
  end
  return here.settings[name]
end })
