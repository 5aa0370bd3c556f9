-- flat: replies that say names and values in turn.
local flat = {}
function flat.by_name(reply)
  local named = {}
  for i = 1, #reply, 2 do named[reply[i]] = reply[i + 1] end
  return named
end
return flat
