-- text: lists as comma-joined text (names and languages hold no comma), and checked integers.
local text = {}
-- `text.of[n]` is a whole number as text, `text.number[told]` what a script call.has_written as text (nil for what
-- is none). Tables: looking up is a fifth of calling, and small numbers, which most are, are there.
text.of = setmetatable({}, { __index = function(_, n) return string.format('%d', n) end })
text.number = setmetatable({}, { __index = function(_, told) return tonumber(told) end })
for n = 0, 1000 do
  text.of[n] = string.format('%d', n)
  text.number[text.of[n]] = n
end
function text.list(joined)
  local out = {}
  for word in string.gmatch(joined or '', '[^,]+') do out[#out + 1] = word end
  return out
end
function text.set(joined)
  local out = {}
  for word in string.gmatch(joined or '', '[^,]+') do out[word] = true end
  return out
end
-- Rule 34: no part of a list can be taken for two, or reach into a key that is not its own.
function text.are_names(joined)
  for _, word in ipairs(text.list(joined)) do
    if #word > 64 or not string.match(word, '^[%w_-]+$') then return false end
  end
  return true
end
function text.are_languages(joined)
  for _, word in ipairs(text.list(joined)) do
    if not text.is_language(word) then return false end
  end
  return true
end
-- A whole number between low and high, or nil.
function text.int(value, low, high)
  local n = string.match(value or '', '^%d+$') and tonumber(value)
  if n and n >= low and n <= high then return n end
  return nil
end
-- Smaller by bytes: `<` on text follows the locale that the server was started in.
-- Four at a time; behind its end a text has none, and goes first.
local byte = string.byte
function text.before(a, b)
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
-- What an error says: one that a command raised is a table.
function text.reason(failure)
  return tostring(type(failure) == 'table' and failure.err or failure)
end
-- Rule 34. Joined ids and keys rely on it: no name or language holds `:`, `/`, `,` or `|`.
function text.is_name(value)
  return #value <= 64 and string.match(value, '^[%w_-]+$') ~= nil
end
function text.is_language(value)
  if value == 'auto' then return true end
  local base, region = string.match(value, '^([a-z]+)(.*)$')
  if not base or #base < 2 or #base > 3 then return false end
  return region == '' or (#region >= 3 and #region <= 9 and string.match(region, '^-%w+$') ~= nil)
end
-- A target is a language, and never `auto`.
function text.is_target(value)
  return value ~= 'auto' and text.is_language(value)
end
-- Joined text of at most `most` words that each fit.
function text.all(joined, most, fits)
  local words = text.list(joined)
  if #words > most or table.concat(words, ',') ~= joined then return false end
  for _, word in ipairs(words) do
    if not fits(word) then return false end
  end
  return true
end
function text.refuse(code, told)
  return redis.error_reply(told and (code .. ' ' .. told) or code)
end
function text.invalid(field, limit)
  return text.refuse('INVALID_MESSAGE', 'field=' .. field .. ' limit=' .. limit)
end
return text
