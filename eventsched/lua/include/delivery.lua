-- delivery: outcomes in order per (session, target) (rules 23-25). Each delivery number ends in
-- exactly one of result, no_speech, failed, missing; a gap is waited for.
-- include: cache
-- include: call
-- include: clock
-- include: entry_ids
-- include: events
-- include: json
-- include: keys
-- include: numbers
-- include: reply
-- include: settings
-- include: strings
-- include: timers
-- include: write
local delivery = { step_max = 64 }
call.on_begin(function() delivery.touched = {} end)
local out_entries_max, out_bytes_max = '1000', 16 * 1024 * 1024

-- The open outcomes of a session, by `target/number`: `utterance|first|to`.
function delivery.open_outcomes(session)
  local known = cache.of_cell().outcomes
  local owed = known[session]
  if not owed then
    owed = {}
    cache.put(known, session, owed)
    local kept = reply.by_name(redis.call('HGETALL', keys.of('outcomes', session)))
    for field, told in pairs(kept) do cache.put(owed, field, told) end
  end
  return owed
end
function delivery.is_open(session, target, number)
  return delivery.open_outcomes(session)[target .. '/' .. number] ~= nil
end
function delivery.has_ended(session)
  return next(delivery.open_outcomes(session)) == nil
end

-- An open outcome, or nil: { utterance, first, to (joined full ids; empty is the speaker) }.
function delivery.find_outcome(session, target, number)
  local kept = delivery.open_outcomes(session)[target .. '/' .. number]
  if not kept then return nil end
  local utterance, first, to = string.match(kept, '^(%d+)|([^|]*)|(.*)$')
  return { utterance = utterance, first = first, to = to }
end

function delivery.open_outcome(session, target, number, utterance, first, to)
  local field, kept = target .. '/' .. number, numbers.text[utterance] .. '|' .. first .. '|' .. to
  local owed = delivery.open_outcomes(session)
  write('HSET', keys.of('outcomes', session), field, kept)
  cache.put(owed, field, kept)
end

-- A session, as a listener with what it has been told so far, and as a speaker (`speaker_of`).
local function listener_of(name)
  local known = cache.of_cell().listeners
  local listener = known[name]
  if not listener then
    local kept = redis.call('HMGET', keys.of('session', name), 'status', 'out_no', 'out_bytes', 'out_low')
    listener = { name = name, listen_language = kept[1] == 'open' or kept[1] == 'closing', next_no = {},
      is_awaited = {}, number = numbers.value[kept[2]], total = numbers.value[kept[3]],
      low = numbers.value[kept[4]] }
    if kept[1] then cache.put(known, name, listener) end
  end
  return listener
end

-- It has closed, or gone.
function delivery.evict(name)
  cache.evict(cache.of_cell().listeners, name)
  cache.evict(cache.of_cell().outcomes, name)
end

-- A session as a speaker: `next_no` by target is the number that goes out next, `is_awaited` whether
-- later ones wait for it.
local function speaker_of(name, target)
  local speaker = listener_of(name)
  if not speaker.next_no[target] then
    local kept = redis.call('HMGET', keys.of('session', name), 'd:' .. target, 'w:' .. target)
    speaker.next_no[target] = numbers.value[kept[1] or '0']
    speaker.is_awaited[target] = kept[2] ~= false
  end
  return speaker
end

-- One entry in a listener's stream: numbered without holes, bounded by entries and by bytes. The
-- listener's session takes what more it is to hold: field, value.
local function tell(listener, kind, d, body, audio, ...)
  local stream, low = keys.of('outbox', listener.name), listener.low
  local total = listener.total + #body + #audio
  local number_told, total_told = numbers.text[listener.number + 1], numbers.text[total]
  write('XADD', stream, 'MAXLEN', out_entries_max, clock.entry_id(), 't', kind,
    'i', number_told .. ':' .. total_told, 'd', d, 'b', body, 'a', audio)
  -- `low` is where the oldest entry begins, or earlier: what was confirmed or fell off by number
  -- went without a word, so it is read again before anything goes for its bytes.
  while total - low > out_bytes_max do
    local two = redis.call('XRANGE', stream, '-', '+', 'COUNT', 2)
    local oldest = two[1][2]
    local ends = tonumber(string.match(oldest[4], ':(%d+)$'))
    low = ends - #oldest[8] - #oldest[10]
    if total - low <= out_bytes_max or not two[2] then break end
    write('XTRIM', stream, 'MINID', two[2][1])
    low = ends
  end
  write('HSET', keys.of('session', listener.name), 'out_no', number_told, 'out_bytes', total_told,
    'out_low', numbers.text[low], ...)
  listener.number, listener.total, listener.low = listener.number + 1, total, low
end

-- A session is told about itself: its state.
function delivery.notify(name, d)
  tell(listener_of(name), 'state', cjson.encode(d), '', '')
end

-- What the reader has handled goes; the confirmed entry itself stays as its bookmark.
function delivery.confirm(listener, id)
  if id == '' then return end
  local session = keys.of('session', listener)
  local kept = redis.call('HGET', session, 'confirmed')
  -- A call that is repeated may come behind a later one: the bookmark never goes back.
  if kept and not entry_ids.precedes(kept, id) then return end
  write('XTRIM', keys.of('outbox', listener), 'MINID', id)
  write('HSET', session, 'confirmed', id)
end

-- Empty or an entry id that the server will take: past the check nothing may fail.
function delivery.is_confirmable(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return id == '' or (ms ~= nil and #ms <= 18 and #seq <= 18)
end

-- Who hears an outcome, as listeners; all recipients and those of them that have closed, as joined
-- full ids. `speaker` is the session itself.
local function audience(speaker, outcome)
  if outcome.to == '' then
    local full = keys.full(speaker.name)
    if speaker.listen_language then return { speaker }, full, '' end
    return {}, full, full
  end
  local told, skipped = {}, {}
  for _, full in ipairs(strings.split(outcome.to)) do
    local listener = listener_of(keys.name(full))
    if listener.listen_language then told[#told + 1] = listener else skipped[#skipped + 1] = full end
  end
  return told, outcome.to, table.concat(skipped, ',')
end

-- A transcript in the making goes to whoever will hear the outcome.
function delivery.publish_partial(session, target, outcome, d, body)
  local d_json = cjson.encode(d)
  for _, listener in ipairs((audience(listener_of(session), outcome))) do
    tell(listener, 'partial', d_json, body, '')
  end
end

-- The next number of (session, target) goes out with this end: { kind, code, body, audio, job,
-- cause, tp, reason }. Advances the order and closes the outcome. `speaker` as `speaker_of` it.
local function send(session, target, number, outcome, ending, speaker)
  local told, to, skipped = audience(speaker, outcome)
  local number_told, full, body = numbers.text[number], keys.full(session), ending.body or ''
  local field = target .. '/' .. number_told
  local owed = delivery.open_outcomes(session)
  write('HDEL', keys.of('outcomes', session), field)
  cache.evict(owed, field)
  local append = ending.kind == 'missing' and events.ResultMissing or events.ResultDelivered
  local id = append(full, target, number_told, outcome, ending, to, skipped)
  local out = '{"session":"' .. full .. '","utterance":' .. outcome.utterance .. ',"target":"' .. target
    .. '","delivery_no":' .. number_told .. ',"outcome":"' .. ending.kind .. '"'
    .. (json.optional(ending.code) and ',"code":' .. json.quote(ending.code) or '') .. ',"log":"' .. id
    .. '"}'
  local audio, next_no = ending.audio or '', numbers.text[number + 1]
  if told[1] == speaker then
    tell(speaker, 'result', out, body, audio, 'd:' .. target, next_no)
    speaker.next_no[target] = number + 1
  else
    write('HSET', keys.of('session', session), 'd:' .. target, next_no)
    speaker.next_no[target] = number + 1
    for _, listener in ipairs(told) do tell(listener, 'result', out, body, audio) end
  end
  delivery.touched[session] = true
end

function delivery.next_number(session, target)
  return speaker_of(session, target).next_no[target]
end

local function take_held(session, target, number)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  local kept = redis.call('HMGET', held, field, field .. '/body', field .. '/audio')
  if not kept[1] then return nil end
  local ending = cjson.decode(kept[1])
  ending.body, ending.audio = kept[2] or '', kept[3] or ''
  write('HDEL', held, field, field .. '/body', field .. '/audio')
  write('ZREM', keys.of('out_of_order_at', session, target), string.format('%d', number))
  return ending
end

-- Arm the gap timer by the number that has been ready for longest, or drop it. The session knows
-- whether there is one.
local function watch_gap(session, target)
  local longest = redis.call('ZRANGE', keys.of('out_of_order_at', session, target), 0, 0, 'WITHSCORES')
  local id = keys.full(session) .. '|' .. target
  local speaker = speaker_of(session, target)
  if longest[1] then
    timers.set(tonumber(longest[2]) + settings.delivery_gap_timeout_ms, 'gap', id)
    write('HSET', keys.of('session', session), 'w:' .. target, '1')
  else
    timers.cancel('gap', id)
    write('HDEL', keys.of('session', session), 'w:' .. target)
  end
  speaker.is_awaited[target] = longest[1] ~= nil
end

-- Send what waits and now can go: at most 64 in a step, the rest when the gap timer fires at once.
function delivery.drain_ready(session, target)
  local number, sent = delivery.next_number(session, target), 0
  while sent < delivery.step_max do
    local outcome = delivery.find_outcome(session, target, number)
    local ending = outcome and take_held(session, target, number)
    if not ending then break end
    send(session, target, number, outcome, ending, speaker_of(session, target))
    number, sent = number + 1, sent + 1
  end
  watch_gap(session, target)
  if sent == delivery.step_max then
    timers.set(clock.now(), 'gap', keys.full(session) .. '|' .. target)
  end
  return sent
end

-- Keep an ending behind the gap in front of it.
function delivery.hold(session, target, number, ending)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  local body, audio = ending.body or '', ending.audio or ''
  ending.body, ending.audio = nil, nil
  write('HSET', held, field, cjson.encode(ending), field .. '/body', body)
  if audio ~= '' then write('HSET', held, field .. '/audio', audio) end
  write('ZADD', keys.of('out_of_order_at', session, target), 'NX', clock.text(),
    string.format('%d', number))
  watch_gap(session, target)
end

function delivery.find_held(session, target, number)
  local kept = redis.call('HGET', keys.of('out_of_order', session), target .. '/' .. number)
  return kept and cjson.decode(kept) or nil
end

-- The outcome has its end: deliver it if it is next, else keep it behind the gap.
function delivery.publish(session, target, number, ending)
  local outcome = delivery.find_outcome(session, target, number)
  if not outcome then return end
  number = tonumber(number)
  local speaker = speaker_of(session, target)
  if speaker.next_no[target] ~= number then
    delivery.hold(session, target, number, ending)
    return
  end
  send(session, target, number, outcome, ending, speaker)
  if speaker.is_awaited[target] then delivery.drain_ready(session, target) end
end

-- The next number is given up: its listeners are told `missing`.
function delivery.skip(session, target, number, outcome, ending)
  send(session, target, number, outcome, ending, speaker_of(session, target))
end
return delivery
