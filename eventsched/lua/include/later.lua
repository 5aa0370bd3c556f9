-- later: changes of sorted sets that a call writes together, one command per set. Who reads such a
-- set flushes it first; each script ends with `later.flush()`, or nothing of them is written.
-- include: call
-- include: write
local later = {}
call.starts_with(function() later.sets = {} end)
local unpacked_max = 1000

local function change(key, member, score)
  wrote = true
  local set = later.sets[key]
  if not set then
    set = { members = {}, scores = {} }
    later.sets[key] = set
  end
  if set.scores[member] == nil then set.members[#set.members + 1] = member end
  set.scores[member] = score
end

-- `score` is text.
function later.add(key, score, member)
  change(key, member, score)
end
function later.drop(key, member)
  change(key, member, false)
end

local function send(command, key, args)
  for at = 1, #args, unpacked_max do
    write(command, key, unpack(args, at, math.min(at + unpacked_max - 1, #args)))
  end
end

-- Everything that waits for this set is written. The last word on a member counts.
function later.flush_set(key)
  local set = later.sets[key]
  if not set then return end
  later.sets[key] = nil
  local added, dropped = {}, {}
  for _, member in ipairs(set.members) do
    local score = set.scores[member]
    if score then
      added[#added + 1] = score
      added[#added + 1] = member
    else
      dropped[#dropped + 1] = member
    end
  end
  send('ZADD', key, added)
  send('ZREM', key, dropped)
end

function later.flush()
  for key in pairs(later.sets) do later.flush_set(key) end
end
