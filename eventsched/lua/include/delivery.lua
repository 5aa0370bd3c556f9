-- delivery: the outcomes of a session, in order for each (session, target) (rules 23, one result
-- per job; 24, no speech; 25, ordered delivery). A delivery number is opened when its utterance is
-- finalized, and ends exactly once: as result, no_speech, failed or missing. An ending with an open
-- predecessor is held until the predecessor has ended or is skipped.
-- include: cache
-- include: call
-- include: clock
-- include: events
-- include: json
-- include: keys
-- include: numbers
-- include: outbox
-- include: reply
-- include: settings
-- include: strings
-- include: timers
-- include: write
local delivery = { ended_in = {}, step_max = 64 }
local as_text, as_number = numbers.text, numbers.value

-- The names of the sessions with outcomes that this call has ended.
call.on_begin(function() delivery.ended_in = {} end)

-- The open outcomes of a session: `utterance|first|to` by `target/number`.
local cached
cached = cache.register('outcomes', 'live', function(session)
  local open = reply.by_name(redis.call('HGETALL', keys.of('outcomes', session)))
  for _ in pairs(open) do cached.grow(1) end
  return open
end)

function delivery.open_outcomes(session)
  return cached.read_through(session)
end

-- Whether the outcome of this utterance, whose first chunk has the id `first`, is open. The chunk
-- tells the utterance from that of an earlier session with the same name. All arguments are text.
function delivery.is_open(session, target, number, utterance, first)
  local stored, begins = cached.read_through(session)[target .. '/' .. number]
  if not stored then return false end
  begins = utterance .. '|' .. first .. '|'
  return string.sub(stored, 1, #begins) == begins
end

function delivery.has_ended(session)
  return next(cached.read_through(session)) == nil
end

-- An open outcome, or nil: { utterance, first, to }. `first` is the id of the first chunk of the
-- utterance, `to` the joined full ids of the recipients; empty stands for the speaker.
function delivery.find_outcome(session, target, number)
  local stored = cached.read_through(session)[target .. '/' .. number]
  if not stored then return nil end
  local utterance, first, to = string.match(stored, '^(%d+)|([^|]*)|(.*)$')
  return { utterance = utterance, first = first, to = to }
end

-- Open an outcome with this delivery number for the recipients of the utterance.
function delivery.open_outcome(session, target, number, utterance, first, to)
  local field, value = target .. '/' .. number, as_text[utterance] .. '|' .. first .. '|' .. to
  local open = cached.read_through(session)
  write('HSET', keys.of('outcomes', session), field, value)
  open[field] = value
  cached.grow(1)
end

local function close_outcome(session, field)
  local open = cached.read_through(session)
  if not open[field] then return end
  write('HDEL', keys.of('outcomes', session), field)
  open[field] = nil
  cached.grow(-1)
end

local function reopen_outcome(session, field, stored)
  if not stored then return end
  write('HSET', keys.of('outcomes', session), field, stored)
  cached.evict(session)
end

-- The session has closed, or retired.
function delivery.evict(session)
  cached.evict(session)
  outbox.evict(session)
end

-- The outbox of the speaker, with the order of one target: `next_no` is the number that is
-- delivered next, `has_held` says whether later numbers are held.
local function speaker_of(session, target)
  local speaker = outbox.get(session)
  if not speaker.next_no[target] then
    local stored = redis.call('HMGET', keys.of('session', session), 'd:' .. target, 'w:' .. target)
    speaker.next_no[target] = as_number[stored[1] or '0']
    speaker.has_held[target] = stored[2] ~= false
  end
  return speaker
end

-- The outboxes that an outcome is appended to; the joined full ids of all recipients; the joined
-- full ids of the recipients that have closed.
local function recipients_of(speaker, outcome)
  if outcome.to == '' then
    local full = keys.full(speaker.name)
    if speaker.is_open then return { speaker }, full, '' end
    return {}, full, full
  end
  local boxes, skipped = {}, {}
  for _, full in ipairs(strings.split(outcome.to)) do
    local box = outbox.get(keys.name(full))
    if box.is_open then boxes[#boxes + 1] = box else skipped[#skipped + 1] = full end
  end
  return boxes, outcome.to, table.concat(skipped, ',')
end

-- Append a partial result to the outboxes of the recipients. `d` is a table.
function delivery.publish_partial(session, outcome, d, body)
  local d_json = cjson.encode(d)
  for _, box in ipairs((recipients_of(outbox.get(session), outcome))) do
    outbox.append(box, 'partial', d_json, body, '')
  end
end

-- Deliver the next number of (session, target). `ending` is { kind, code, body, audio, job, cause,
-- tp, reason }; `speaker` comes from `speaker_of`.
local function deliver(session, target, number, outcome, ending, speaker)
  local boxes, to, skipped = recipients_of(speaker, outcome)
  local number_text, full, body = as_text[number], keys.full(session), ending.body or ''
  local field = target .. '/' .. number_text
  local stored = cached.read_through(session)[field]
  close_outcome(session, field)
  local append = ending.kind == 'missing' and events.ResultMissing or events.ResultDelivered
  local id = call.or_else(function() reopen_outcome(session, field, stored) end, append,
    full, target, number_text, outcome, ending, to, skipped)
  local d = '{"session":"' .. full .. '","utterance":' .. outcome.utterance .. ',"target":"'
    .. target .. '","delivery_no":' .. number_text .. ',"outcome":"' .. ending.kind .. '"'
    .. (json.optional(ending.code) and ',"code":' .. json.quote(ending.code) or '')
    .. ',"log":"' .. id .. '"}'
  local audio, next_no = ending.audio or '', as_text[number + 1]
  if boxes[1] == speaker then
    outbox.append(speaker, 'result', d, body, audio, 'd:' .. target, next_no)
    speaker.next_no[target] = number + 1
  else
    write('HSET', keys.of('session', session), 'd:' .. target, next_no)
    speaker.next_no[target] = number + 1
    for _, box in ipairs(boxes) do outbox.append(box, 'result', d, body, audio) end
  end
  delivery.ended_in[session] = true
end

-- The number that is delivered next.
function delivery.next_number(session, target)
  return speaker_of(session, target).next_no[target]
end

local function load_held(session, target, number)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  local stored = redis.call('HMGET', held, field, field .. '/body', field .. '/audio')
  if not stored[1] then return nil end
  local ending = cjson.decode(stored[1])
  ending.body, ending.audio = stored[2] or '', stored[3] or ''
  return ending
end

-- The ending of the number is delivered.
local function remove_held(session, target, number)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  write('HDEL', held, field, field .. '/body', field .. '/audio')
  write('ZREM', keys.of('out_of_order_at', session, target), string.format('%d', number))
end

-- Set the gap timer by the ending that has been held for longest, or cancel the timer. The field
-- `w:<target>` of the session exists while endings of the target are held.
local function update_gap_timer(session, target)
  local longest = redis.call('ZRANGE', keys.of('out_of_order_at', session, target), 0, 0,
    'WITHSCORES')
  local id = keys.full(session) .. '|' .. target
  local speaker = speaker_of(session, target)
  if longest[1] then
    timers.set(tonumber(longest[2]) + settings.delivery_gap_timeout_ms, 'gap', id)
    write('HSET', keys.of('session', session), 'w:' .. target, '1')
  else
    timers.cancel('gap', id)
    write('HDEL', keys.of('session', session), 'w:' .. target)
  end
  speaker.has_held[target] = longest[1] ~= nil
end

-- Deliver the held endings that are next in order, at most 64 in a call. A gap timer that is due at
-- once delivers the rest. Returns how many were delivered.
function delivery.drain_ready(session, target)
  local number, count = delivery.next_number(session, target), 0
  while count < delivery.step_max do
    local outcome = delivery.find_outcome(session, target, number)
    local ending = outcome and load_held(session, target, number)
    if not ending then break end
    deliver(session, target, number, outcome, ending, speaker_of(session, target))
    remove_held(session, target, number)
    number, count = number + 1, count + 1
  end
  update_gap_timer(session, target)
  if count == delivery.step_max then
    timers.set(clock.now(), 'gap', keys.full(session) .. '|' .. target)
  end
  return count
end

-- Hold an ending until its predecessors have ended.
function delivery.hold(session, target, number, ending)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  local body, audio = ending.body or '', ending.audio or ''
  ending.body, ending.audio = nil, nil
  write('HSET', held, field, cjson.encode(ending), field .. '/body', body)
  if audio ~= '' then write('HSET', held, field .. '/audio', audio) end
  write('ZADD', keys.of('out_of_order_at', session, target), 'NX', clock.text(),
    string.format('%d', number))
  update_gap_timer(session, target)
end

-- A held ending without body and audio, or nil.
function delivery.find_held(session, target, number)
  local stored = redis.call('HGET', keys.of('out_of_order', session), target .. '/' .. number)
  return stored and cjson.decode(stored) or nil
end

-- End an outcome: deliver the ending if its number is next, else hold it.
function delivery.publish(session, target, number, ending)
  local outcome = delivery.find_outcome(session, target, number)
  if not outcome then return end
  number = tonumber(number)
  local speaker = speaker_of(session, target)
  if speaker.next_no[target] ~= number then
    delivery.hold(session, target, number, ending)
    return
  end
  deliver(session, target, number, outcome, ending, speaker)
  if speaker.has_held[target] then delivery.drain_ready(session, target) end
end

-- End the next number as missing although it has no open outcome: an earlier call failed after it
-- had allocated the number. The speaker receives it, because the recipients are not known.
function delivery.skip_hole(s, target, number)
  remove_held(s.name, target, number)
  deliver(s.name, target, number, { utterance = '-1', to = '' },
    { kind = 'missing', reason = 'no_outcome', code = 'NO_OUTCOME', job = '', tp = s.tp },
    speaker_of(s.name, target))
end

-- End the next number as missing. `outcome` is open.
function delivery.skip(session, target, number, outcome, ending)
  deliver(session, target, number, outcome, ending, speaker_of(session, target))
end
return delivery
