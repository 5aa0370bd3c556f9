-- affinity: the node that a session's last job went to, and for which turn (rule 16): its field
-- `used`, `node|turn`, empty while there is none.
-- include: call
-- include: keys
-- include: memory
-- include: write
local affinity = {}
call.on_begin(function() affinity.handed_over, affinity.moved = {}, {} end)

-- What its session says.
function affinity.learn(name, node, turn)
  local here = memory.of_cell()
  memory.keep(here.used, name, node)
  here.turns[name] = turn
end

-- The session is gone.
function affinity.forget(name)
  local here = memory.of_cell()
  memory.drop(here.used, name)
  here.turns[name] = nil
end

-- The caller writes it from here on, with what else it writes of the session: `moved` says what this
-- call has made of it.
function affinity.hand_over(name)
  affinity.handed_over[name] = true
end

-- The node, empty when there is none yet, and the turn, as text.
function affinity.of(name)
  local here = memory.of_cell()
  if not here.used[name] then
    local used = redis.call('HGET', keys.of('session', name), 'used') or ''
    local node, turn = string.match(used, '^(.*)|(.*)$')
    affinity.learn(name, node or '', turn or '')
  end
  return here.used[name], here.turns[name]
end

function affinity.move(name, node, turn)
  local used = node .. '|' .. turn
  if not affinity.handed_over[name] then write('HSET', keys.of('session', name), 'used', used) end
  affinity.moved[name] = used
  affinity.learn(name, node, turn)
end
return affinity
