-- result_text: whether every reader can decode the text of a result. The text is a map in
-- MessagePack with the fields of `Text` in eventsched/schema/events.py. What this module accepts,
-- codec.decode_text reads; a test compares the two. It accepts short maps of known fields only, so
-- no value is nested. An encrypted text is at most as long as one of its number of characters can
-- be: readers bound the context of a job by characters (rule 28, group bounds).
-- include: validate
local result_text = {}
local character_bytes_max, other_bytes_max = 4, 512
local byte, match, sub = string.byte, string.match, string.sub
-- The end of ASCII text; a name with the byte before it; the same with a text of at most 31 bytes:
-- its first byte, and where its ASCII part begins and ends.
local ascii, name_pattern = '^[\1-\127%z]*()', '^([\160-\191][%l_]+)()'
local short_text_pattern = '^([\160-\191][%l_]+)([\160-\191])()[\1-\127%z]*()'

-- The first byte of the text at `at`, and of the value after it; nil if there is no text.
local function span(body, at)
  local kind, high, low = byte(body, at, at + 2)
  local from, size
  if not kind then return nil end
  if kind >= 160 and kind <= 191 then
    from, size = at + 1, kind - 160
  elseif kind == 217 and high then
    from, size = at + 2, high
  elseif kind == 218 and low then
    from, size = at + 3, high * 256 + low
  else
    return nil
  end
  if from + size > #body + 1 then return nil end
  return from, from + size
end

-- Each function returns the first byte after the value at `at`, or nil if the field cannot have
-- this value; then the number, or the length of the binary value. A binary value may end beyond the
-- body; `is_readable` notices it. ASCII text, the most frequent, is checked where it is.
local function text_end(body, at)
  local from, next_at = span(body, at)
  if not from then return nil end
  if match(body, ascii, from) >= next_at then return next_at end
  if not validate.is_utf8(sub(body, from, next_at - 1)) then return nil end
  return next_at
end

local function optional_text_end(body, at)
  if byte(body, at) == 192 then return at + 1 end
  return text_end(body, at)
end

local function binary_end(body, at)
  local kind, high, low = byte(body, at, at + 2)
  if kind == 196 and high then return at + 2 + high, high end
  if kind == 197 and low then return at + 3 + high * 256 + low, high * 256 + low end
  return nil
end

local function count_end(body, at)
  local kind = byte(body, at)
  if not kind then return nil end
  if kind < 128 then return at + 1, kind end
  if kind < 204 or kind > 206 then return nil end
  local last, count = at + 2 ^ (kind - 204), 0
  if last > #body then return nil end
  for i = at + 1, last do count = count * 256 + byte(body, i) end
  return last + 1, count
end

local value_ends = { source_text = text_end, text = optional_text_end, language = text_end,
  encrypted = binary_end, characters = count_end }
-- The same by the name as it is encoded: a byte with its length, and the name.
local ends_by_encoded, names, is_text = {}, {}, {}
for name, value_end in pairs(value_ends) do
  local encoded = string.char(160 + #name) .. name
  ends_by_encoded[encoded], names[encoded] = value_end, name
  is_text[encoded] = value_end == text_end or value_end == optional_text_end
end

-- The function of the field at `at`, the first byte of its value, and its name; nil for a field
-- that no text has. A value that begins with a letter, or a longer encoding of the length, needs
-- the slower way.
local function field_at(body, at)
  local encoded, value_at = match(body, name_pattern, at)
  local value_end = encoded and ends_by_encoded[encoded]
  if value_end then return value_end, value_at, names[encoded] end
  local from, next_at = span(body, at)
  local name = from and sub(body, from, next_at - 1)
  return name and value_ends[name], next_at, name
end

local size_of = {}
for size = 0, 31 do size_of[string.char(160 + size)] = size end

-- The first byte after the field at `at` if its value is a short text, the most frequent; nil for
-- any other field.
local function short_text_end(body, at)
  local encoded, kind, from, ends = match(body, short_text_pattern, at)
  if not encoded or not is_text[encoded] then return nil end
  local next_at = from + size_of[kind]
  if ends >= next_at then return next_at end
  if next_at > #body + 1 or not validate.is_utf8(sub(body, from, next_at - 1)) then return nil end
  return next_at
end

local function is_possible(counts)
  return (counts.encrypted or 0) <= (counts.characters or 0) * character_bytes_max + other_bytes_max
end

-- Whether the body is empty, or a text that every reader can decode; then whether it is encrypted.
function result_text.is_readable(body)
  local first = byte(body)
  if not first then return true, false end
  if first < 128 or first > 143 then return false end
  local at, counts = 2, nil
  for _ = 1, first - 128 do
    local next_at = short_text_end(body, at)
    if not next_at then
      local value_end, value_at, name = field_at(body, at)
      if not value_end then return false end
      local size
      next_at, size = value_end(body, value_at)
      if not next_at then return false end
      if size then
        counts = counts or {}
        counts[name] = size
      end
    end
    at = next_at
  end
  if at ~= #body + 1 then return false end
  if not counts then return true, false end
  return is_possible(counts), (counts.encrypted or 0) > 0
end
return result_text
