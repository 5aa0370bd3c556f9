-- outbox: the stream from which the listeners of a session read results and the state of the
-- session. Entries are numbered without holes; the stream is bounded by entries and by bytes.
-- Counters in the session record: `out_no` is the number of entries so far, `out_bytes` the bytes
-- so far, `out_low` the bytes before the oldest entry that is not confirmed. An entry has the bytes
-- of its text and speech, and 256 bytes for all else that the server stores of it, so that outcomes
-- without a text count as well.
--
-- Partial results. A result must arrive, a partial result may be lost. So partial results have a
-- stream of their own, `partials`, which keeps the newest ones: they displace no result. It keeps
-- 32, and after a partial result of many bytes as many as have 32 KiB together: at most 164 KiB.
--
-- Unread bytes of a tenant. The hash `tenant_outbox` has the bytes that wait to be read, by
-- tenant of the listening sessions. A session is counted in steps of 16 KiB, so that small results
-- cost no write: `out_counted` has the bytes of the session that are counted. At
-- `tenant_outbox_bytes_max` the tenant is refused, and partial results are not stored. Results in
-- flight still arrive. Beyond twice the limit no outbox grows beyond 4 KiB: an entry has no speech
-- and no text of more than 3,840 B, its field `omitted` says so, and the oldest entries make room.
-- include: cache
-- include: call
-- include: clock
-- include: entry_ids
-- include: keys
-- include: numbers
-- include: settings
-- include: write
local outbox = { changes = {} }
local as_text, as_number = numbers.text, numbers.value
local entries_max, bytes_max, count_step = 1000, 16 * 1024 * 1024, 16 * 1024
local partials_max, partials_bytes_max = 32, 32 * 1024
local grown_bytes_max, entry_bytes = 4 * 1024, 256

call.on_reset(function() outbox.changes = {} end)

local tenant_bytes = cache.register('tenant_outbox', 'live', function(tenant)
  return tonumber(redis.call('HGET', keys.tenant_outbox, tenant)) or 0
end)

-- The bytes that wait to be read in the outboxes of a tenant.
function outbox.tenant_bytes(tenant)
  return tenant_bytes.read_through(tenant) + (outbox.changes[tenant] or 0)
end

-- Write the bytes by tenant. Bound: the tenants of this call.
call.on_commit(function()
  for tenant, change in pairs(outbox.changes) do
    local bytes = math.max(write('HINCRBY', keys.tenant_outbox, tenant, as_text[change]), 0)
    outbox.changes[tenant] = nil
    tenant_bytes.put(tenant, bytes)
    if bytes == 0 then write('HDEL', keys.tenant_outbox, tenant) end
  end
end)

-- The bytes up to the entry, and before it.
local function bytes_of(entry)
  local fields = entry[2]
  local ends = tonumber(string.match(fields[4], ':(%d+)$'))
  return ends, ends - entry_bytes - #fields[8] - #fields[10]
end

-- The counters of a record that lacks one of them, by its entries: the number of the newest entry,
-- the bytes up to it, and those before the oldest.
local function counters_of_entries(name)
  local stream = keys.of('outbox', name)
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', '1')[1]
  if not newest then return 0, 0, 0 end
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', '1')[1]
  local total, _, low = bytes_of(newest), bytes_of(oldest)
  return as_number[string.match(newest[2][4], '^%d+')], total, low
end

-- `next_no` and `has_held`, by target, belong to the module `delivery`: the next delivery number
-- and whether later numbers are held. `session_key` and `stream` are the keys of the session and of
-- the outbox.
local function new(name, is_open, number, total, low, tenant, counted)
  return { name = name, full = keys.full(name), session_key = keys.of('session', name),
    stream = keys.of('outbox', name), is_open = is_open, number = number, total = total, low = low,
    tenant = tenant, counted = counted, next_no = {}, has_held = {} }
end

local cached = cache.register('outboxes', 'live', function(name)
  local stored = redis.call('HMGET', keys.of('session', name), 'status', 'out_no', 'out_bytes',
    'out_low', 'tenant', 'out_counted')
  if not stored[1] then return nil end
  local number, total, low = as_number[stored[2]], as_number[stored[3]], as_number[stored[4]]
  if not (number and total and low) then number, total, low = counters_of_entries(name) end
  local is_open = (stored[1] == 'open' or stored[1] == 'closing') and stored[5] ~= false
  return new(name, is_open, number, total, low, stored[5], as_number[stored[6] or '0'] or 0)
end)

-- The outbox of a session by its name. The outbox of a session that has closed or does not exist is
-- not open, nor is that of a session whose record lacks its tenant.
function outbox.get(name)
  return cached.read_through(name) or new(name, false)
end

function outbox.evict(name)
  cached.evict(name)
end

local function store_counters(box, _, number_text, total_text, low, ...)
  write('HSET', box.session_key, 'out_no', number_text, 'out_bytes', total_text,
    'out_low', as_text[low], ...)
end

local function remove_entry(box, id)
  write('XDEL', box.stream, id)
end

-- The tenant has this many unread bytes in this outbox.
local function set_counted(box, bytes)
  write('HSET', box.session_key, 'out_low', as_text[box.low],
    'out_counted', as_text[bytes])
  outbox.changes[box.tenant] = (outbox.changes[box.tenant] or 0) + bytes - box.counted
  box.counted = bytes
end

-- The oldest entry after `id`, or of all without it; nil if there is none.
local function oldest_after(box, id)
  local first = id and '(' .. id or '-'
  return redis.call('XRANGE', box.stream, first, '+', 'COUNT', '1')[1]
end

-- What a new entry has of a tenant beyond twice its limit: `d`, which says what is left out, and
-- the text.
local function omit(d, body, audio)
  local omitted = audio ~= '' and 'audio' or nil
  if entry_bytes + #body > grown_bytes_max then body, omitted = '', 'text' end
  if omitted then d = string.sub(d, 1, -2) .. ',"omitted":"' .. omitted .. '"}' end
  return d, body
end

-- The bytes before the oldest entry that stays if the next entry makes `total` bytes, and the last
-- entry that is removed for its bytes, or nil. `low` is at most the position of the oldest entry:
-- entries that were confirmed, or that MAXLEN removed, did not update it. Bound: the entries
-- removed.
local function make_room(box, total, most)
  local low, removed = box.low, nil
  while total - low > most do
    local oldest = oldest_after(box, removed)
    if not oldest then return box.total, removed end
    local ends, begins = bytes_of(oldest)
    low = math.max(low, begins)
    if total - low <= most then break end
    removed, low = oldest[1], ends
  end
  return low, removed
end

-- The bytes before the oldest entry that stays when the next entry is appended with MAXLEN.
local function low_after_max_length(box, low, removed)
  local oldest = oldest_after(box, removed)
  if not oldest then return low end
  local ends, begins = bytes_of(oldest)
  local number = as_number[string.match(oldest[2][4], '^%d+')]
  return math.max(low, number <= box.number + 1 - entries_max and ends or begins)
end

-- Append one entry; `d` is JSON. More fields of the session, as name and value, may be written
-- together with the counters. All is read before the first write.
function outbox.append(box, kind, d, body, audio, ...)
  local most = bytes_max
  if outbox.tenant_bytes(box.tenant) >= 2 * settings.tenant_outbox_bytes_max then
    most = math.min(bytes_max, math.max(grown_bytes_max, box.total - box.low))
    d, body = omit(d, body, audio)
    audio = ''
  end
  local stream, total = box.stream, box.total + entry_bytes + #body + #audio
  local low, removed = make_room(box, total, most)
  local is_counted = math.abs(total - low - box.counted) >= count_step
  if is_counted and box.number >= entries_max then low = low_after_max_length(box, low, removed) end
  local number_text, total_text = as_text[box.number + 1], as_text[total]
  local id = write('XADD', stream, 'MAXLEN', as_text[entries_max], clock.entry_id(), 't', kind,
    'i', number_text .. ':' .. total_text, 'd', d, 'b', body, 'a', audio)
  if removed then write('XTRIM', stream, 'MINID', entry_ids.successor(removed)) end
  call.or_else(remove_entry, store_counters, box, id, number_text, total_text, low, ...)
  box.number, box.total, box.low = box.number + 1, total, low
  if is_counted then set_counted(box, total - low) end
end

-- Append a partial result; `d` is JSON. Its number is that of the last entry of the outbox, so that
-- a reader knows which results the partial result follows.
function outbox.append_partial(box, d, body)
  if outbox.tenant_bytes(box.tenant) >= settings.tenant_outbox_bytes_max then return end
  local most = math.floor(partials_bytes_max / (entry_bytes + #body))
  write('XADD', keys.of('partials', box.name), 'MAXLEN',
    as_text[math.max(1, math.min(most, partials_max))], clock.entry_id(), 't', 'partial', 'i',
    as_text[box.number], 'd', d, 'b', body, 'a', '')
end

-- Report the state of a session, a table, to its listeners.
function outbox.notify(name, state)
  outbox.append(outbox.get(name), 'state', cjson.encode(state), '', '')
end

-- The listener has handled every entry up to `id`. The entry itself stays as the bookmark of the
-- listener. A repeated call may arrive after a later one, so the bookmark never moves back.
function outbox.confirm(name, id)
  if id == '' then return end
  local session = keys.of('session', name)
  local confirmed = redis.call('HGET', session, 'confirmed')
  if confirmed and not entry_ids.precedes(confirmed, id) then return end
  local box, low = outbox.get(name), nil
  local is_counted = box.counted ~= 0
  if is_counted then
    local oldest = redis.call('XRANGE', keys.of('outbox', name), id, '+', 'COUNT', '1')[1]
    local ends, begins = box.total, nil
    if oldest then ends, begins = bytes_of(oldest) end
    low = math.max(box.low, oldest and oldest[1] ~= id and begins or ends)
  end
  write('XTRIM', keys.of('outbox', name), 'MINID', id)
  write('HSET', session, 'confirmed', id)
  if not is_counted then return end
  box.low = low
  set_counted(box, box.total - box.low)
end

-- The session has closed, and its listener has had time to read: only the last entry stays, which
-- reports the end of the session.
function outbox.free(name)
  local box = outbox.get(name)
  write('XTRIM', keys.of('outbox', name), 'MAXLEN', '1')
  write('DEL', keys.of('partials', name))
  if not box.counted or box.counted == 0 then return end
  box.low = box.total
  set_counted(box, 0)
end

-- Whether `id` is empty or an entry id that the server accepts. After this check `confirm` cannot
-- fail.
function outbox.is_confirmable(id)
  local ms, number = string.match(id, '^(%d+)%-(%d+)$')
  return id == '' or (ms ~= nil and #ms <= 18 and #number <= 18)
end
return outbox
