-- sessions: the write state of a session: its open utterance, finalizing, closing (rules 1-8, 12).
-- include: affinity
-- include: archive
-- include: cache
-- include: call
-- include: clock
-- include: delivery
-- include: dispatch_entry
-- include: eager_dispatch
-- include: entry_ids
-- include: events
-- include: json
-- include: keys
-- include: numbers
-- include: queue
-- include: settings
-- include: strings
-- include: timers
-- include: write
local sessions = { given_up_max = 32, tokens_max = 8 }
call.on_begin(function()
  sessions.known = {}
end)

local padding_ms = { pause = 220, max_duration = 220, final = 280, max_bytes = 0, close = 220 }
-- What has been heard, soft, in one field: the next chunk's number and when the session was last
-- there; then of the open utterance its chunks, bytes, ms, first number, time of the last chunk, and
-- ids of first and last. Each of them as a field would be searched for on every chunk.
local heard_line = '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|(.*)$'
local names = { 'status', 'epoch', 'utterance', 'heard', 'tenant', 'tp' }
-- What only a finalize or an opening needs to know is read when it is asked for.
local seldom = { 'turn', 'source', 'targets', 'features', 'features_hash', 'encoding',
  'sample_rate', 'priority', 'room', 'key' }
local all, is_seldom = { unpack(names) }, {}
for _, field in ipairs(seldom) do
  is_seldom[field] = true
  all[#all + 1] = field
end
local rare = { tokens = true, archived = true }

local function learn(s, kept, at)
  s.turn = numbers.value[kept[at]]
  s.source, s.targets, s.features = kept[at + 1], kept[at + 2], kept[at + 3]
  s.features_hash, s.encoding, s.sample_rate = kept[at + 4], kept[at + 5], kept[at + 6]
  s.priority, s.room, s.key = numbers.value[kept[at + 7]], kept[at + 8], kept[at + 9]
end
local lazy = { __index = function(s, field)
  if is_seldom[field] then
    learn(s, redis.call('HMGET', keys.of('session', s.name), unpack(seldom)), 1)
  elseif rare[field] then
    s[field] = redis.call('HGET', keys.of('session', s.name), field) or ''
  end
  return rawget(s, field)
end }

local function load(name, whole)
  local kept = redis.call('HMGET', keys.of('session', name), unpack(whole and all or names))
  if not kept[1] then return false end
  local next_seq, seen, count, bytes, ms, seq, at, first, last = string.match(kept[4], heard_line)
  local s = {
    name = name, full = keys.full(name), status = kept[1], epoch = numbers.value[kept[2]],
    utterance = numbers.value[kept[3]], tenant = kept[5], tp = kept[6],
    next_seq = numbers.value[next_seq], seen = tonumber(seen), buf_count = numbers.value[count],
    buf_bytes = numbers.value[bytes], buf_ms = numbers.value[ms], buf_seq = numbers.value[seq],
    buf_at = tonumber(at), buf_first = first, buf_last = last, dirty = false, has_moved_on = false,
    turn = nil, source = nil, targets = nil, features = nil,
    features_hash = nil, encoding = nil, sample_rate = nil, priority = nil, room = nil, key = nil,
  }
  if whole then learn(s, kept, #names + 1) end
  return setmetatable(s, lazy)
end

-- A session by its name, or nil. Read once, `whole` by who will need what is seldom asked for; what is
-- soft is written back when the call commits.
function sessions.get(name, whole)
  local s = sessions.known[name]
  if s == nil then
    local known = cache.of_cell().sessions
    s = known[name]
    if not s then
      s = load(name, whole)
      if s then cache.put(known, name, s) end
    end
    sessions.known[name] = s
  end
  return s or nil
end

-- It has closed, or is gone: few calls ask for it any more.
function sessions.evict(name)
  cache.evict(cache.of_cell().sessions, name)
  affinity.evict(name)
  delivery.evict(name)
end

-- The epoch that this token was given, or nil. A retry that comes after somebody else's resume
-- gets its old epoch again: it must not take the session back.
function sessions.epoch_of(s, token)
  for _, kept in ipairs(strings.split(s.tokens)) do
    local known, epoch = string.match(kept, '^(.*):(%d+)$')
    if known == token then return tonumber(epoch) end
  end
  return nil
end

-- The tokens of the last 8 epochs, the newest last.
function sessions.tokens_with(s, token, epoch)
  local list = strings.split(s and s.tokens)
  if #list >= sessions.tokens_max then table.remove(list, 1) end
  list[#list + 1] = token .. ':' .. string.format('%d', epoch)
  return table.concat(list, ',')
end

local function time_of(value)
  return value == clock.now() and clock.text() or numbers.text[value]
end

-- As `heard_line` reads it; of a session that has just been opened without `s`.
function sessions.encode_buffer(s)
  if not s then return '0|' .. clock.text() .. '|0|0|0|0|0||' end
  return numbers.text[s.next_seq] .. '|' .. time_of(s.seen) .. '|' .. numbers.text[s.buf_count] .. '|'
    .. numbers.text[s.buf_bytes] .. '|' .. numbers.text[s.buf_ms] .. '|' .. numbers.text[s.buf_seq] .. '|'
    .. time_of(s.buf_at) .. '|' .. s.buf_first .. '|' .. s.buf_last
end

-- Write back the open utterance and the counters of each session that the call has touched.
call.on_commit(function()
  for name, s in pairs(sessions.known) do
    if s and s.dirty then
      local key, used = keys.of('session', name), affinity.changed[name]
      if s.has_moved_on and used then
        write('HSET', key, 'used', used, 'utterance', numbers.text[s.utterance], 'turn', numbers.text[s.turn],
          'heard', sessions.encode_buffer(s))
      elseif s.has_moved_on then
        write('HSET', key, 'utterance', numbers.text[s.utterance], 'turn', numbers.text[s.turn],
          'heard', sessions.encode_buffer(s))
      else
        write('HSET', key, 'heard', sessions.encode_buffer(s))
      end
      s.dirty, s.has_moved_on = false, false
    end
  end
end)

local function empty_buffer(s)
  s.buf_count, s.buf_bytes, s.buf_ms, s.buf_seq = 0, 0, 0, 0
  s.buf_first, s.buf_last = '', ''
  s.dirty = true
end

-- Who hears this utterance (rule 12): in a room one job per distinct language that the others
-- hear; alone, or where nobody else hears anything, one per target of the session, to the speaker.
local function audience(s)
  local by_target, order = {}, {}
  if s.room ~= '' then
    local members = redis.call('HGETALL', keys.of('room', keys.name(s.room)))
    for i = 1, #members, 2 do
      local listen_language = members[i + 1]
      if members[i] ~= s.full and listen_language ~= '' then
        if not by_target[listen_language] then
          by_target[listen_language] = {}
          order[#order + 1] = listen_language
        end
        table.insert(by_target[listen_language], members[i])
      end
    end
  end
  if #order == 0 then order = strings.split(s.targets) end
  table.sort(order)
  for _, to in pairs(by_target) do table.sort(to) end
  return order, by_target
end

-- Give each target its next delivery number and owe its outcome. Returns the targets as
-- { target, delivery_no } and as the event lists them.
local function owe_targets(s)
  local order, by_target = audience(s)
  local list, owed = {}, {}
  for i, target in ipairs(order) do
    local number = numbers.text[write('HINCRBY', keys.of('session', s.name), 'a:' .. target, '1') - 1]
    local to = by_target[target] and table.concat(by_target[target], ',') or ''
    list[i] = { target = target, delivery_no = number }
    owed[i] = events.target(target, number, to)
    delivery.open_outcome(s.name, target, number, s.utterance, s.buf_first, to)
  end
  return list, table.concat(owed, ',')
end

-- The open utterance is complete. Once per utterance: the index moves on (rules 2, 3).
function sessions.finalize(s, reason)
  local targets, listed = owe_targets(s)
  local utterance, turn, ms = numbers.text[s.utterance], numbers.text[s.turn], numbers.text[s.buf_ms]
  local padding = numbers.text[padding_ms[reason]]
  local audio = '"first":"' .. s.buf_first .. '","last":"' .. s.buf_last .. '","count":'
    .. numbers.text[s.buf_count] .. ',"bytes":' .. numbers.text[s.buf_bytes] .. ',"padding_ms":' .. padding
  local id = events.UtteranceFinalized(s, reason, padding, listed)
  s.utterance = s.utterance + 1
  if reason ~= 'max_duration' then s.turn = s.turn + 1 end
  s.has_moved_on = true
  empty_buffer(s)
  sessions.trim_audio(s)
  if not targets[1] then return end
  eager_dispatch.dispatch(s, { is_new = true, session = s.full, name = s.name, utterance = utterance, turn = turn, ms = ms,
    tenant = s.tenant, source = s.source, features_hash = s.features_hash, log = id, tp = s.tp,
    priority = s.priority, targets = targets, features = s.features,
    rest = dispatch_entry.details(s.tp, s.tenant, turn, s.source, ms, numbers.text[s.priority], '"encoding":"' .. s.encoding
      .. '","sample_rate":' .. s.sample_rate .. json.list_field('features', s.features)
      .. json.string_field('key', s.key) .. ',' .. audio) })
end

-- Audio stays for the oldest utterance that is open or has an open outcome, and for the oldest that
-- is not archived where audio is. Bound: the session's open outcomes.
function sessions.trim_audio(s)
  local oldest, first
  for _, kept in pairs(delivery.open_outcomes(s.name)) do
    local utterance, id = string.match(kept, '^(%d+)|([^|]*)|')
    if not oldest or tonumber(utterance) < oldest then oldest, first = tonumber(utterance), id end
  end
  if not first then
    first = s.buf_first ~= '' and s.buf_first or string.format('%d-0', clock.now() + 1)
  end
  if archive.keeps_audio() then
    local behind = json.optional(s.archived) and entry_ids.successor(s.archived) or '0-0'
    if entry_ids.precedes(behind, first) then first = behind end
  end
  write('XTRIM', keys.of('audio', s.name), 'MINID', first)
end

function sessions.is_playing(s)
  return redis.call('EXISTS', keys.of('playing', s.name)) == 1
end

-- One chunk that is known to be next in order: rule 2 (a), (b), (c). Returns what it finalized, each
-- behind a space.
function sessions.append(s, seq, ms, end_of_utterance, payload)
  local now, done = clock.now(), ''
  if s.buf_bytes > 0 and now - s.buf_at >= settings.pause_ms and not sessions.is_playing(s) then
    done = ' ' .. numbers.text[s.utterance]
    sessions.finalize(s, 'pause')
  end
  local id = events.AudioChunkAppended(s, seq, ms, end_of_utterance, payload)
  s.next_seq, s.seen, s.dirty = seq + 1, now, true
  if #payload > 0 or s.buf_bytes > 0 then
    if s.buf_count == 0 then
      s.buf_first, s.buf_seq = id, seq
      timers.set(now + settings.pause_ms, 'pause', s.full)
    end
    s.buf_last, s.buf_at, s.buf_count = id, now, s.buf_count + 1
    s.buf_bytes, s.buf_ms = s.buf_bytes + #payload, s.buf_ms + ms
  end
  local reason
  if s.buf_ms >= settings.audio_ms_max then reason = 'max_duration' end
  if end_of_utterance then reason = 'final' end
  if s.buf_bytes > settings.audio_bytes_max then reason = 'max_bytes' end
  if reason and s.buf_bytes > 0 then
    done = done .. ' ' .. numbers.text[s.utterance]
    sessions.finalize(s, reason)
  end
  return done
end

-- Why this producer may not act on the session now, or nil.
function sessions.refusal(s, epoch)
  if not s then return 'SESSION_UNKNOWN' end
  if epoch < s.epoch then return 'SESSION_SUPERSEDED epoch=' .. string.format('%d', s.epoch) end
  if epoch > s.epoch then return 'INVALID_MESSAGE field=epoch limit=no such epoch of the session' end
  if s.status ~= 'open' then return 'SESSION_CLOSED' end
  return nil
end

local function pressed()
  return (redis.call('HGET', keys.counters, 'pressure') or '') ~= ''
end

-- Whether the cell takes no more for now.
function sessions.is_pressed()
  return cache.once('is_pressed', pressed)
end

-- The cell or this tenant takes no more for now, or nil (rule 18).
function sessions.pressure(tenant)
  if sessions.is_pressed() then return 'BACKPRESSURE retry_after_ms=1000' end
  if queue.tenant_count(tenant) >= settings.tenant_queue_max then
    return 'BACKPRESSURE retry_after_ms=' .. string.format('%d', settings.queue_timeout_ms / 2)
  end
  return nil
end

-- No more chunks; what is buffered is finalized; the session ends when everything owed has.
function sessions.close(s, reason)
  write('HSET', keys.of('session', s.name), 'status', 'closing', 'reason', reason)
  s.status = 'closing'
  local id = events.SessionClosing(s, reason)
  if s.buf_bytes > 0 then sessions.finalize(s, 'close') end
  if s.room ~= '' then
    write('HDEL', keys.of('room', keys.name(s.room)), s.full)
    events.RoomLeft(s)
  end
  timers.cancel_both('idle', 'pause', s.full)
  timers.set(clock.now() + settings.close_wait_ms, 'close', s.full)
  delivery.notify(s.name, { state = 'closing', log = id })
  delivery.touched[s.name] = true
end

local function closed(s)
  for _, field in ipairs(redis.call('HKEYS', keys.of('playing', s.name))) do
    sessions.end_playback(s, field, 'closed')
  end
  local missing = tonumber(redis.call('HGET', keys.of('session', s.name), 'missing')) or 0
  write('HSET', keys.of('session', s.name), 'status', 'closed')
  s.status = 'closed'
  local id = events.SessionClosed(s, missing)
  timers.cancel('close', s.full)
  timers.set(clock.now() + settings.session_retention_ms, 'retire', s.full)
  delivery.notify(s.name, { state = 'closed', log = id })
  sessions.evict(s.name)
end

function sessions.end_playback(s, field, reason)
  local origin, target, utterance = string.match(field, '^(.-)/(.-)/(%d+)$')
  write('HDEL', keys.of('playing', s.name), field)
  timers.cancel('playback', s.full .. '|' .. field)
  events.PlaybackEnded(s, origin, target, utterance, reason)
  if s.buf_count > 0 and reason ~= 'closed' then
    timers.set(math.max(clock.now(), s.buf_at + settings.pause_ms), 'pause', s.full)
  end
end

-- After outcomes have ended: sessions that owe nothing more let go of their audio, and close if
-- they were asked to. Bound: the sessions this call has touched.
call.on_commit(function()
  local names_touched = {}
  for name in pairs(delivery.touched) do names_touched[#names_touched + 1] = name end
  table.sort(names_touched)
  for _, name in ipairs(names_touched) do
    if delivery.has_ended(name) then
      local s = sessions.get(name)
      if s then
        sessions.trim_audio(s)
        if s.status == 'closing' then closed(s) end
      end
    end
  end
end)
return sessions
