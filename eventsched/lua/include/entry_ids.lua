-- entry_ids: ids of stream entries, `<ms>-<number>`. Their order is not the order of their texts.
local entry_ids = {}

local function parts(id)
  local ms, number = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(number)
end

function entry_ids.precedes(a, b)
  local a_ms, a_number = parts(a)
  local b_ms, b_number = parts(b)
  if a_ms ~= b_ms then return a_ms < b_ms end
  return a_number < b_number
end

-- The smallest id after this one.
function entry_ids.successor(id)
  local ms, number = parts(id)
  return string.format('%d-%d', ms, number + 1)
end

function entry_ids.is_valid(value)
  return string.match(value, '^%d+%-%d+$') ~= nil and #value <= 32
end
return entry_ids
