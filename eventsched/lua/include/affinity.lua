-- affinity: the node that a session's last job went to, and for which turn (rule 16): its field
-- `used`, `node|turn`, empty while there is none.
-- include: cache
-- include: call
-- include: keys
-- include: write
local affinity = {}
call.on_begin(function() affinity.deferred, affinity.changed = {}, {} end)

-- What its session says.
function affinity.remember(name, node, turn)
  local here = cache.of_cell()
  cache.put(here.used, name, node)
  here.turns[name] = turn
end

-- The session is gone.
function affinity.evict(name)
  local here = cache.of_cell()
  cache.evict(here.used, name)
  here.turns[name] = nil
end

-- The caller writes it from here on, with what else it writes of the session: `moved` says what this
-- call has made of it.
function affinity.defer_write(name)
  affinity.deferred[name] = true
end

-- The node, empty when there is none yet, and the turn, as text.
function affinity.get(name)
  local here = cache.of_cell()
  if not here.used[name] then
    local used = redis.call('HGET', keys.of('session', name), 'used') or ''
    local node, turn = string.match(used, '^(.*)|(.*)$')
    affinity.remember(name, node or '', turn or '')
  end
  return here.used[name], here.turns[name]
end

function affinity.set(name, node, turn)
  local used = node .. '|' .. turn
  if not affinity.deferred[name] then write('HSET', keys.of('session', name), 'used', used) end
  affinity.changed[name] = used
  affinity.remember(name, node, turn)
end
return affinity
