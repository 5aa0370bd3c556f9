-- result_text: whether every reader can decode the text of a result. The text is a map in
-- MessagePack with the fields of `Text` in eventsched/schema/events.py. What this module accepts,
-- codec.decode_text reads; a test compares the two. It accepts short maps of known fields only, so
-- no value is nested.
-- include: validate
local result_text = {}
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
-- this value. A number or a binary value may end beyond the body; `is_readable` notices it.
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
  if kind == 196 and high then return at + 2 + high end
  if kind == 197 and low then return at + 3 + high * 256 + low end
  return nil
end

local function count_end(body, at)
  local kind = byte(body, at)
  if not kind then return nil end
  if kind < 128 then return at + 1 end
  if kind >= 204 and kind <= 206 then return at + 1 + 2 ^ (kind - 204) end
  return nil
end

local value_ends = { source_text = text_end, text = optional_text_end, language = text_end,
  encrypted = binary_end, characters = count_end }

-- Whether the body is empty, or a text that every reader can decode.
function result_text.is_readable(body)
  local first = byte(body)
  if not first then return true end
  if first < 128 or first > 143 then return false end
  local at = 2
  for _ = 1, first - 128 do
    local from, next_at = span(body, at)
    local value_end = from and value_ends[sub(body, from, next_at - 1)]
    at = value_end and value_end(body, next_at)
    if not at then return false end
  end
  return at == #body + 1
end
return result_text
