-- affinity: the node that the last job of a session went to, and for which turn (rule 16). The
-- session's field `used` is `node|turn`, or empty.
-- include: cache
-- include: call
-- include: keys
-- include: write
local affinity = { deferred = {}, changed = {} }

call.on_begin(function() affinity.deferred, affinity.changed = {}, {} end)

local cached = cache.register('affinity', 'live', function(name)
  local used = redis.call('HGET', keys.of('session', name), 'used') or ''
  local node, turn = string.match(used, '^(.*)|(.*)$')
  return { node = node or '', turn = turn or '' }
end)

-- The node, empty when there is none yet, and the turn, as text.
function affinity.get(name)
  local used = cached.read_through(name)
  return used.node, used.turn
end

-- The session has just been opened: it has used no node.
function affinity.start(name)
  cached.put(name, { node = '', turn = '' })
end

function affinity.evict(name)
  cached.evict(name)
end

-- From here on the caller writes the field, together with other fields of the session:
-- `affinity.changed` holds the value that this call has given it.
function affinity.defer_write(name)
  affinity.deferred[name] = true
end

function affinity.set(name, node, turn)
  local value = node .. '|' .. turn
  if not affinity.deferred[name] then write('HSET', keys.of('session', name), 'used', value) end
  affinity.changed[name] = value
  local used = cached.read_through(name)
  used.node, used.turn = node, turn
end
return affinity
