-- settings: the cell's settings (integers), each read once a call and only when needed; those that
-- most calls need together are read together.
-- include: call
-- include: keys
local together = {
  { 'pause_ms', 'audio_ms_max', 'audio_bytes_max', 'backlog_max' },
  { 'lease_base_ms', 'lease_factor_thousandths', 'waiting_ms' },
}
local read_with = {}
for _, names in ipairs(together) do
  for _, name in ipairs(names) do read_with[name] = names end
end
local settings = setmetatable({}, {
  __index = function(self, name)
    local names = read_with[name] or { name }
    local values = redis.call('HMGET', keys.settings, unpack(names))
    for i, one in ipairs(names) do rawset(self, one, tonumber(values[i])) end
    return rawget(self, name)
  end,
})
call.starts_with(function()
  for name in pairs(settings) do settings[name] = nil end
end)
