-- affinity: the node that a session's last job went to, and for which turn (rule 16): its field
-- `used`, `node|turn`, empty while there is none.
-- include: call
-- include: keys
-- include: write
-- include: memory
local affinity = {}
call.starts_with(function() affinity.handed_over, affinity.moved = {}, {} end)

-- What its session says.
function affinity.learn(name, used)
  memory.keep(memory.of_cell().used, name, used)
end

-- The caller writes it from here on, with what else it writes of the session: `moved` says what this
-- call has made of it.
function affinity.hand_over(name)
  affinity.handed_over[name] = true
end

-- The node, empty when there is none yet, and the turn, as text.
function affinity.of(name)
  local known = memory.of_cell().used
  if not known[name] then
    affinity.learn(name, redis.call('HGET', keys.of('session', name), 'used') or '')
  end
  local node, turn = string.match(known[name], '^(.*)|(.*)$')
  return node or '', turn or ''
end

function affinity.move(name, node, turn)
  local used = node .. '|' .. turn
  affinity.moved[name] = used
  affinity.learn(name, used)
  if not affinity.handed_over[name] then write('HSET', keys.of('session', name), 'used', used) end
end
