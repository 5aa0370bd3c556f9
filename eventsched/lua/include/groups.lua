-- groups: consumer groups of streams.
-- include: strings
-- include: write
local groups = {}

-- The group exists when this returns; the result is true if this call has created it. Its first
-- entry is the one after the id `from`. Further words of XGROUP CREATE may follow.
function groups.create(stream, name, from, ...)
  local is_done, failure = pcall(write, 'XGROUP', 'CREATE', stream, name, from, 'MKSTREAM', ...)
  if is_done then return true end
  if not string.find(strings.error_text(failure), 'BUSYGROUP', 1, true) then error(failure, 0) end
  return false
end
return groups
