-- validate: checks of arguments, and error replies. Joined ids and keys rely on names and languages
-- without `:`, `/`, `,` and `|` (rule 34, names).
-- include: numbers
-- include: strings
local validate = {}
local find, gsub, match = string.find, string.gsub, string.match
-- Characters of two, three and four bytes. Of the latter, the wrong pairs of first and second bytes
-- are overlong, half of a surrogate pair, or above the last code point; they are by the first byte.
local two_bytes = '[\194-\223][\128-\191]'
local more_bytes = { '[\224-\239][\128-\191][\128-\191]',
  '[\240-\244][\128-\191][\128-\191][\128-\191]' }
local wrong_pairs = { ['\224'] = '\224[\128-\159]', ['\237'] = '\237[\160-\191]',
  ['\240'] = '\240[\128-\143]', ['\244'] = '\244[\144-\191]' }

local function is_ascii(text)
  return match(text, '^[\1-\127%z]*()') == #text + 1
end

function validate.is_name(value)
  return #value <= 64 and string.match(value, '^[%w_-]+$') ~= nil
end

-- Whether the text is `digits` hexadecimal digits.
function validate.is_hex(value, digits)
  return #value == digits and string.match(value, '^%x+$') ~= nil
end

-- Whether the text is a W3C traceparent: version, trace, parent and flags.
function validate.is_traceparent(value)
  if #value ~= 55 then return false end
  local version, trace, parent, flags =
    string.match(value, '^([0-9a-f]+)%-([0-9a-f]+)%-([0-9a-f]+)%-([0-9a-f]+)$')
  return version ~= nil and #version == 2 and #trace == 32 and #parent == 16 and #flags == 2
end

function validate.is_language(value)
  if value == 'auto' then return true end
  local base, region = string.match(value, '^([a-z]+)(.*)$')
  if not base or #base < 2 or #base > 3 then return false end
  return region == '' or (#region >= 3 and #region <= 9 and string.match(region, '^-%w+$') ~= nil)
end

-- A target is a language other than `auto`.
function validate.is_target(value)
  return value ~= 'auto' and validate.is_language(value)
end

-- Whether joined text is a list of at most `most` words, each of which passes `check`.
function validate.list_of(joined, most, check)
  local words = strings.split(joined)
  if #words > most or table.concat(words, ',') ~= joined then return false end
  for _, word in ipairs(words) do
    if not check(word) then return false end
  end
  return true
end

-- The same for words that are sorted by bytes, each once, so that a set of words has one text only.
function validate.sorted_list_of(joined, most, check)
  if not validate.list_of(joined, most, check) then return false end
  local previous
  for _, word in ipairs(strings.split(joined)) do
    if previous and not strings.precedes(previous, word) then return false end
    previous = word
  end
  return true
end

-- Whether text is valid UTF-8. ASCII text, the most frequent, needs one match: a repeated class is
-- several times as fast as a search for a byte beyond it. Otherwise each character becomes a blank,
-- by the number of its bytes, and ASCII is left: a loop over the characters would take several
-- times as long. Most texts with other characters have those of two bytes alone.
function validate.is_utf8(text)
  if is_ascii(text) then return true end
  text = gsub(text, two_bytes, ' ')
  if is_ascii(text) then return true end
  for first, wrong in pairs(wrong_pairs) do
    if find(text, first, 1, true) and find(text, wrong) then return false end
  end
  for _, character in ipairs(more_bytes) do
    text = gsub(text, character, ' ')
    if is_ascii(text) then return true end
  end
  return false
end

-- Free text: valid UTF-8 of at most `bytes_max` bytes. Readers could not decode anything else.
function validate.is_text(value, bytes_max)
  return value == '' or #value <= bytes_max and validate.is_utf8(value)
end

-- The text as a whole number from low to high, or nil. The table has small numbers, the most
-- frequent ones.
function validate.int(value, low, high)
  value = value or ''
  local n = rawget(numbers.value, value) or string.match(value, '^%d+$') and tonumber(value)
  if n and n >= low and n <= high then return n end
  return nil
end

-- An error reply. `detail` is `key=value`, for the caller to act on.
function validate.refuse(code, detail)
  return redis.error_reply(detail and (code .. ' ' .. detail) or code)
end

function validate.invalid(field, limit)
  return validate.refuse('INVALID_MESSAGE', 'field=' .. field .. ' limit=' .. limit)
end
-- The refusal of an operator's reason or name, or nil.
function validate.operator_refusal(why, by)
  if why == '' or not validate.is_text(why, 500) then
    return validate.invalid('why', 'text of 1 to 500 bytes')
  end
  if by == '' or not validate.is_text(by, 200) then
    return validate.invalid('by', 'text of 1 to 200 bytes')
  end
  return nil
end
return validate
