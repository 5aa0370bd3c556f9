-- write: the only way scripts change anything. `wrote` tells a batch whether an error came
-- before or after the first change of an entry: Redis rolls nothing back.
-- include: call
local wrote
call.starts_with(function() wrote = false end)
local function write(...)
  wrote = true
  return redis.call(...)
end
