-- affinity: the node that a session's last job went to, and for which turn (rule 16). Read once a
-- call.
-- include: call
-- include: keys
-- include: write
local affinity = {}
call.starts_with(function() affinity.known = {} end)

-- As its session says, to whoever has read that; what this call has changed since stays.
function affinity.learn(name, node, turn)
  if not affinity.known[name] then affinity.known[name] = { node = node, turn = turn } end
end

-- { node (empty when there is none yet), turn as text }
function affinity.of(name)
  if not affinity.known[name] then
    local kept = redis.call('HMGET', keys.of('session', name), 'node', 'node_turn')
    affinity.learn(name, kept[1] or '', kept[2] or '')
  end
  return affinity.known[name]
end

function affinity.move(name, node, turn)
  affinity.known[name] = { node = node, turn = turn }
  write('HSET', keys.of('session', name), 'node', node, 'node_turn', turn)
end
