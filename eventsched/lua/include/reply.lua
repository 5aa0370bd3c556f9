-- reply: replies of commands that alternate names and values.
local reply = {}

function reply.by_name(flat)
  local named = {}
  for i = 1, #flat, 2 do named[flat[i]] = flat[i + 1] end
  return named
end
return reply
