-- strings: lists as text joined by commas, which no name or language contains (rule 34, names); the
-- order of texts.
local strings = {}
local byte = string.byte

function strings.split(joined)
  local words = {}
  for word in string.gmatch(joined or '', '[^,]+') do words[#words + 1] = word end
  return words
end

function strings.set_of(joined)
  local words = {}
  for word in string.gmatch(joined or '', '[^,]+') do words[word] = true end
  return words
end

-- Whether `a` sorts before `b` by bytes. The operator `<` on text follows the locale of the server.
-- Compares four bytes at a time; a prefix sorts before the longer text.
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
