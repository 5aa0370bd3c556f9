-- strings: lists as text joined by commas (names and languages hold no comma, rule 34), and order.
local strings = {}
local byte = string.byte

function strings.split(joined)
  local out = {}
  for word in string.gmatch(joined or '', '[^,]+') do out[#out + 1] = word end
  return out
end

function strings.set_of(joined)
  local out = {}
  for word in string.gmatch(joined or '', '[^,]+') do out[word] = true end
  return out
end

-- Whether `a` sorts before `b` by bytes: `<` on text follows the locale of the server. Four bytes
-- at a time; a text that ends first comes first.
function strings.precedes(a, b)
  for i = 1, #a + 1, 4 do
    local a1, a2, a3, a4 = byte(a, i, i + 3)
    local b1, b2, b3, b4 = byte(b, i, i + 3)
    if a1 ~= b1 then return (a1 or 0) < (b1 or 0) end
    if a2 ~= b2 then return (a2 or 0) < (b2 or 0) end
    if a3 ~= b3 then return (a3 or 0) < (b3 or 0) end
    if a4 ~= b4 then return (a4 or 0) < (b4 or 0) end
  end
  return false
end

-- The message of an error: an error that a command raised is a table.
function strings.error_text(failure)
  return tostring(type(failure) == 'table' and failure.err or failure)
end
return strings
