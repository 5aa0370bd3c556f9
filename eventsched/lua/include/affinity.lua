-- affinity: the node of the last job of a session, and the turn of that job (rule 16, choosing a
-- node). The field `used` of the session is `node|turn`, or empty.
-- include: cache
-- include: keys
-- include: write
local affinity = {}

local cached = cache.register('affinity', 'live', function(name)
  local used = redis.call('HGET', keys.of('session', name), 'used') or ''
  local node, turn = string.match(used, '^(.*)|(.*)$')
  return { node = node or '', turn = turn or '' }
end)

-- The node, empty if no job has been dispatched yet, and the turn, as text.
function affinity.get(name)
  local used = cached.read_through(name)
  return used.node, used.turn
end

-- The session has just been opened: no job has been dispatched yet.
function affinity.start(name)
  cached.put(name, { node = '', turn = '' })
end

function affinity.evict(name)
  cached.evict(name)
end

function affinity.set(name, node, turn)
  write('HSET', keys.of('session', name), 'used', node .. '|' .. turn)
  local used = cached.read_through(name)
  used.node, used.turn = node, turn
end
return affinity
