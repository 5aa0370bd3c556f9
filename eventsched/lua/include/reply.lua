-- reply: replies of commands that alternate names and values.
local reply = {}

function reply.by_name(flat)
  local named = {}
  for i = 1, #flat, 2 do named[flat[i]] = flat[i + 1] end
  return named
end

-- Whether a command has failed because the key is of another type. A failure is a table or a text,
-- by server.
function reply.is_wrong_type(failure)
  local message = type(failure) == 'table' and failure.err or tostring(failure)
  return string.find(message, 'WRONGTYPE', 1, true) ~= nil
end
return reply
