-- flat: replies that say names and values in turn.
local function by_name(flat)
  local told = {}
  for i = 1, #flat, 2 do told[flat[i]] = flat[i + 1] end
  return told
end
