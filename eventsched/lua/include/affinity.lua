-- affinity: the node that a session's last job went to, and for which turn (rule 16): its field
-- `used`, `node|turn`, empty while there is none.
-- include: call
-- include: keys
-- include: write
local affinity = {}
call.starts_with(function() affinity.known, affinity.moved = {}, {} end)

-- As its session said when this call read it. From here on the caller writes it, with what else it
-- writes of the session: `moved` says what this call has made of it.
function affinity.learn(name, used)
  affinity.known[name] = used
end

-- The node, empty when there is none yet, and the turn, as text.
function affinity.of(name)
  local used = affinity.moved[name] or affinity.known[name]
    or redis.call('HGET', keys.of('session', name), 'used') or ''
  local node, turn = string.match(used, '^(.*)|(.*)$')
  return node or '', turn or ''
end

function affinity.move(name, node, turn)
  local used = node .. '|' .. turn
  affinity.moved[name] = used
  if not affinity.known[name] then write('HSET', keys.of('session', name), 'used', used) end
end
