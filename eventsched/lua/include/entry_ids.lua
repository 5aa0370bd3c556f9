-- entry_ids: order of entry ids. As text they do not compare.
local entry_ids = {}
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
function entry_ids.precedes(a, b)
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  if a_ms ~= b_ms then return a_ms < b_ms end
  return a_seq < b_seq
end
-- The smallest id behind this one.
function entry_ids.successor(id)
  local ms, seq = parts(id)
  return string.format('%d-%d', ms, seq + 1)
end
function entry_ids.is_valid(value)
  return string.match(value, '^%d+%-%d+$') ~= nil and #value <= 32
end
return entry_ids
