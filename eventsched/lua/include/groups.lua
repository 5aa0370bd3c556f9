-- groups: consumer groups of streams.
-- include: strings
-- include: write
local groups = {}

-- Create the group if it does not exist; returns true if this call has created it. The group reads
-- the entries after the id `from`. More arguments of XGROUP CREATE may follow.
function groups.create(stream, name, from, ...)
  local is_done, failure = pcall(write, 'XGROUP', 'CREATE', stream, name, from, 'MKSTREAM', ...)
  if is_done then return true end
  if not string.find(strings.error_text(failure), 'BUSYGROUP', 1, true) then error(failure, 0) end
  return false
end
return groups
