-- deliver: outcomes in order per (session, target) (rules 23-25). Each delivery number ends in
-- exactly one of result, no_text, failed, missing; a gap is waited for.
-- include: keys
-- include: write
-- include: clock
-- include: timers
-- include: settings
-- include: text
-- include: ids
local deliver = { in_step_max = 64, touched = {} }
local out_entries_max, out_bytes_max = 1000, 16 * 1024 * 1024

-- An open outcome, or nil: { utterance, first, to (joined full ids; empty is the speaker) }.
function deliver.open(session, target, number)
  local kept = redis.call('HGET', keys.of('outcomes', session),
    target .. '/' .. string.format('%d', number))
  if not kept then return nil end
  local utterance, first, to = string.match(kept, '^(%d+)|([^|]*)|(.*)$')
  return { utterance = tonumber(utterance), first = first, to = to }
end

function deliver.owe(session, target, number, utterance, first, to)
  write('HSET', keys.of('outcomes', session), target .. '/' .. string.format('%d', number),
    string.format('%d|%s|%s', utterance, first, to))
end

-- One entry in a listener's stream: numbered without holes, bounded by entries and by bytes.
function deliver.tell(listener, kind, d, body, audio)
  local session, stream = keys.of('session', listener), keys.of('out', listener)
  local kept = redis.call('HMGET', session, 'out_no', 'out_bytes', 'out_low')
  local number = (tonumber(kept[1]) or 0) + 1
  local total = (tonumber(kept[2]) or 0) + #(body or '') + #(audio or '')
  local low = tonumber(kept[3]) or 0
  write('XADD', stream, 'MAXLEN', out_entries_max, string.format('%d-*', clock.now()), 't', kind,
    'i', string.format('%d:%d', number, total), 'd', cjson.encode(d), 'b', body or '',
    'a', audio or '')
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
  write('HSET', session, 'out_no', string.format('%d', number),
    'out_bytes', string.format('%d', total), 'out_low', string.format('%d', low))
end

-- What the reader has handled goes; the confirmed entry itself stays as its bookmark.
function deliver.confirm(listener, id)
  if id == '' then return end
  local session = keys.of('session', listener)
  local kept = redis.call('HGET', session, 'confirmed')
  -- A call that is repeated may come behind a later one: the bookmark never goes back.
  if kept and not ids.before(kept, id) then return end
  write('XTRIM', keys.of('out', listener), 'MINID', id)
  write('HSET', session, 'confirmed', id)
end

-- Empty or an entry id that the server will take: past the check nothing may fail.
function deliver.is_confirmable(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return id == '' or (ms ~= nil and #ms <= 18 and #seq <= 18)
end

-- Who hears an outcome: all recipients, those of them that have closed (full ids), and a function
-- that tells the others.
function deliver.audience(session, outcome)
  local to = text.list(outcome.to)
  if #to == 0 then to = { keys.full(session) } end
  local told, skipped = {}, {}
  for _, listener in ipairs(to) do
    local name = keys.name(listener)
    local status = redis.call('HGET', keys.of('session', name), 'status')
    if status == 'open' or status == 'closing' then
      told[#told + 1] = name
    else
      skipped[#skipped + 1] = listener
    end
  end
  return to, skipped, function(kind, d, body, audio)
    for _, name in ipairs(told) do deliver.tell(name, kind, d, body, audio) end
  end
end

-- The next number of (session, target) goes out with this end: { kind, code, body, audio, job,
-- cause, tp, reason }. Advances the order and closes the outcome.
local function send(session, target, number, outcome, ending)
  local d = { utterance = outcome.utterance, target = target, delivery_no = number }
  local out = { session = keys.full(session), utterance = outcome.utterance, target = target,
    delivery_no = number, outcome = ending.kind, code = filled(ending.code) }
  local to, skipped, tell = deliver.audience(session, outcome)
  d.to, d.skipped = some(to), some(skipped)
  local event = { s = keys.full(session), j = ending.job, c = ending.cause, tp = ending.tp, d = d }
  if ending.kind == 'missing' then
    event.t, d.reason = 'ResultMissing', ending.reason
  else
    event.t, event.b = 'ResultDelivered', ending.body
    d.outcome, d.code = ending.kind, filled(ending.code)
  end
  write('HSET', keys.of('session', session), 'd:' .. target, string.format('%d', number + 1))
  write('HDEL', keys.of('outcomes', session), target .. '/' .. string.format('%d', number))
  out.log = emit(event)
  tell('result', out, ending.body, ending.audio)
  deliver.touched[session] = true
end

function deliver.next_no(session, target)
  return tonumber(redis.call('HGET', keys.of('session', session), 'd:' .. target)) or 0
end

local function take_held(session, target, number)
  local held, field = keys.of('held', session), target .. '/' .. string.format('%d', number)
  local kept = redis.call('HMGET', held, field, field .. '/body', field .. '/audio')
  if not kept[1] then return nil end
  local ending = cjson.decode(kept[1])
  ending.body, ending.audio = kept[2] or '', kept[3] or ''
  write('HDEL', held, field, field .. '/body', field .. '/audio')
  write('ZREM', keys.of('ready', session, target), string.format('%d', number))
  return ending
end

-- Arm the gap timer by the number that has been ready for longest, or drop it.
local function watch_gap(session, target)
  local longest = redis.call('ZRANGE', keys.of('ready', session, target), 0, 0, 'WITHSCORES')
  local id = keys.full(session) .. '|' .. target
  if longest[1] then
    timers.set(tonumber(longest[2]) + settings.gap_ms, 'gap', id)
  else
    timers.drop('gap|' .. id)
  end
end

-- Send what waits and now can go: at most 64 in a step, the rest when the gap timer fires at once.
function deliver.go_on(session, target)
  local number, sent = deliver.next_no(session, target), 0
  while sent < deliver.in_step_max do
    local outcome = deliver.open(session, target, number)
    local ending = outcome and take_held(session, target, number)
    if not ending then break end
    send(session, target, number, outcome, ending)
    number, sent = number + 1, sent + 1
  end
  watch_gap(session, target)
  if sent == deliver.in_step_max then
    timers.set(clock.now(), 'gap', keys.full(session) .. '|' .. target)
  end
  return sent
end

-- Keep an ending behind the gap in front of it.
function deliver.hold(session, target, number, ending)
  local held, field = keys.of('held', session), target .. '/' .. string.format('%d', number)
  local body, audio = ending.body or '', ending.audio or ''
  ending.body, ending.audio = nil, nil
  write('HSET', held, field, cjson.encode(ending), field .. '/body', body)
  if audio ~= '' then write('HSET', held, field .. '/audio', audio) end
  write('ZADD', keys.of('ready', session, target), 'NX', string.format('%d', clock.now()),
    string.format('%d', number))
  watch_gap(session, target)
end

function deliver.held(session, target, number)
  local kept = redis.call('HGET', keys.of('held', session),
    target .. '/' .. string.format('%d', number))
  return kept and cjson.decode(kept) or nil
end

-- The outcome has its end: deliver it if it is next, else keep it behind the gap.
function deliver.finish(session, target, number, ending)
  local outcome = deliver.open(session, target, number)
  if not outcome then return end
  if deliver.next_no(session, target) ~= number then
    deliver.hold(session, target, number, ending)
    return
  end
  send(session, target, number, outcome, ending)
  if redis.call('EXISTS', keys.of('ready', session, target)) == 1 then
    deliver.go_on(session, target)
  end
end

-- The next number is given up: its listeners are told `missing`.
deliver.give_up = send
