-- outbox: the stream from which the listeners of a session read results, partials and the state of
-- the session. Entries are numbered without holes; the stream is bounded by entries and by bytes.
-- The session holds the counters: `out_no` entries so far, `out_bytes` of payload so far, `out_low`
-- bytes before the oldest entry.
-- include: cache
-- include: clock
-- include: entry_ids
-- include: keys
-- include: numbers
-- include: write
local outbox = {}
local as_text, as_number = numbers.text, numbers.value
local entries_max, bytes_max = '1000', 16 * 1024 * 1024

-- `next_no` and `has_held` are the order of the session's own outcomes, by target (see `delivery`).
local function new(name, is_open, number, total, low)
  return { name = name, is_open = is_open, number = number, total = total, low = low, next_no = {},
    has_held = {} }
end

local cached = cache.register('outboxes', 'live', function(name)
  local stored = redis.call('HMGET', keys.of('session', name), 'status', 'out_no', 'out_bytes', 'out_low')
  if not stored[1] then return nil end
  return new(name, stored[1] == 'open' or stored[1] == 'closing', as_number[stored[2]],
    as_number[stored[3]], as_number[stored[4]])
end)

-- The outbox of a session by its name. That of a session that has closed or does not exist is not
-- open.
function outbox.get(name)
  return cached.read_through(name) or new(name, false)
end

function outbox.evict(name)
  cached.evict(name)
end

-- Append one entry; `d` is JSON. More fields of the session that owns the box may be written with
-- its counters: name, value.
function outbox.append(box, kind, d, body, audio, ...)
  local stream, low = keys.of('outbox', box.name), box.low
  local total = box.total + #body + #audio
  local number_text, total_text = as_text[box.number + 1], as_text[total]
  write('XADD', stream, 'MAXLEN', entries_max, clock.entry_id(), 't', kind,
    'i', number_text .. ':' .. total_text, 'd', d, 'b', body, 'a', audio)
  -- The oldest entry begins at `low` or later, since entries that were confirmed or exceeded the
  -- number went without an update of `low`. So it is read again before an entry is removed for its
  -- bytes.
  while total - low > bytes_max do
    local first_two = redis.call('XRANGE', stream, '-', '+', 'COUNT', 2)
    local oldest = first_two[1][2]
    local ends = tonumber(string.match(oldest[4], ':(%d+)$'))
    low = ends - #oldest[8] - #oldest[10]
    if total - low <= bytes_max or not first_two[2] then break end
    write('XTRIM', stream, 'MINID', first_two[2][1])
    low = ends
  end
  write('HSET', keys.of('session', box.name), 'out_no', number_text, 'out_bytes', total_text,
    'out_low', as_text[low], ...)
  box.number, box.total, box.low = box.number + 1, total, low
end

-- Report the state of a session, a table, to its listeners.
function outbox.notify(name, state)
  outbox.append(outbox.get(name), 'state', cjson.encode(state), '', '')
end

-- The reader has handled everything up to this entry, which stays as its bookmark. A call that is
-- repeated may come after a later one: the bookmark never goes back.
function outbox.confirm(name, id)
  if id == '' then return end
  local session = keys.of('session', name)
  local confirmed = redis.call('HGET', session, 'confirmed')
  if confirmed and not entry_ids.precedes(confirmed, id) then return end
  write('XTRIM', keys.of('outbox', name), 'MINID', id)
  write('HSET', session, 'confirmed', id)
end

-- Empty, or an entry id that the server accepts: after this check `confirm` cannot fail.
function outbox.is_confirmable(id)
  local ms, number = string.match(id, '^(%d+)%-(%d+)$')
  return id == '' or (ms ~= nil and #ms <= 18 and #number <= 18)
end
return outbox
