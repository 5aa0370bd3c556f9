-- result_text: whether every reader can decode the text of a result. The text is a map in
-- MessagePack with the fields of `Text` in eventsched/schema/events.py. What this module accepts,
-- codec.decode_text reads; a test compares the two. It accepts short maps of known fields only, so
-- no value is nested. An encrypted text is at most as long as one of its number of characters can
-- be: readers bound the context of a job by characters (rule 28, group bounds).
-- include: validate
local result_text = {}
local character_bytes_max, other_bytes_max = 4, 512
local byte, sub = string.byte, string.sub

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
-- body; `is_readable` notices it.
local function text_end(body, at)
  local from, next_at = span(body, at)
  if not from or not validate.is_utf8(sub(body, from, next_at - 1)) then return nil end
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

-- Whether the body is empty, or a text that every reader can decode; then whether it is encrypted.
function result_text.is_readable(body)
  local first = byte(body)
  if not first then return true, false end
  if first < 128 or first > 143 then return false end
  local at, size, counts = 2, nil, { encrypted = 0, characters = 0 }
  for _ = 1, first - 128 do
    local from, next_at = span(body, at)
    local name = from and sub(body, from, next_at - 1)
    local value_end = name and value_ends[name]
    if not value_end then return false end
    at, size = value_end(body, next_at)
    if not at then return false end
    if size then counts[name] = size end
  end
  if at ~= #body + 1 then return false end
  local is_possible = counts.encrypted <= counts.characters * character_bytes_max + other_bytes_max
  return is_possible, counts.encrypted > 0
end
return result_text
