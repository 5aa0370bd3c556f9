-- entry_ids: ids of stream entries, `<ms>-<number>`. Their order is not the order of their texts.
-- Both numbers have 64 bits, and a number of Lua has 53: long ones are compared as texts of digits.
local entry_ids = {}

local number_max = '18446744073709551615'

local function parts(id)
  return string.match(id, '^(%d+)%-(%d+)$')
end

-- Whether a number that has no zeros before it is below another one.
local function is_below(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

function entry_ids.precedes(a, b)
  local a_ms, a_number = parts(a)
  local b_ms, b_number = parts(b)
  if a_ms ~= b_ms then return is_below(a_ms, b_ms) end
  return is_below(a_number, b_number)
end

-- The number after this one.
local function next_number(number)
  if #number <= 15 then return string.format('%d', tonumber(number) + 1) end
  local head, digit, nines = string.match(number, '^(.-)([0-8]?)(9*)$')
  if digit == '' then return '1' .. string.rep('0', #nines) end
  return head .. string.char(string.byte(digit) + 1) .. string.rep('0', #nines)
end

-- The smallest id after this one; the greatest id is its own successor.
function entry_ids.successor(id)
  local ms, number = parts(id)
  if number ~= number_max then return ms .. '-' .. next_number(number) end
  return ms == number_max and id or next_number(ms) .. '-0'
end

local function is_number(text)
  return (text == '0' or string.sub(text, 1, 1) ~= '0') and not is_below(number_max, text)
end

function entry_ids.is_valid(value)
  local ms, number = parts(value)
  return ms ~= nil and is_number(ms) and is_number(number)
end
return entry_ids
