-- affinity: the node that a session's last job went to, and for which turn (rule 16).
-- include: call
-- include: keys
-- include: write
local affinity = {}
call.starts_with(function() affinity.known, affinity.moved = {}, {} end)

-- As its session said when this call read it; what the call has changed since is not that any more.
function affinity.learn(name, node, turn)
  if not affinity.moved[name] then affinity.known[name] = { node = node, turn = turn } end
end

-- The node, empty when there is none yet, and the turn, as text.
function affinity.of(name)
  local known = affinity.known[name]
  if known then return known.node, known.turn end
  local kept = redis.call('HMGET', keys.of('session', name), 'node', 'node_turn')
  return kept[1] or '', kept[2] or ''
end

function affinity.move(name, node, turn)
  affinity.known[name], affinity.moved[name] = nil, true
  write('HSET', keys.of('session', name), 'node', node, 'node_turn', turn)
end
