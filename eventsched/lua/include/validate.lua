-- validate: checks of arguments, and error replies. Joined ids and keys rely on names and languages
-- without `:`, `/`, `,` and `|` (rule 34, names).
-- include: strings
local validate = {}

function validate.is_name(value)
  return #value <= 64 and string.match(value, '^[%w_-]+$') ~= nil
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

function validate.are_names(joined)
  for _, word in ipairs(strings.split(joined)) do
    if not validate.is_name(word) then return false end
  end
  return true
end

function validate.are_languages(joined)
  for _, word in ipairs(strings.split(joined)) do
    if not validate.is_language(word) then return false end
  end
  return true
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

-- The text as a whole number from low to high, or nil.
function validate.int(value, low, high)
  local n = string.match(value or '', '^%d+$') and tonumber(value)
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
return validate
