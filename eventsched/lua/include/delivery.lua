-- delivery: the outcomes of a session, in order for each (session, target) (rules 23, one result
-- per job; 24, no speech; 25, ordered delivery). A delivery number is opened when its utterance is
-- finalized, and ends exactly once: as result, no_speech, failed or missing. An ending with an open
-- predecessor is held until the predecessor has ended or is skipped.
-- include: cache
-- include: call
-- include: clock
-- include: events
-- include: jobs
-- include: json
-- include: keys
-- include: numbers
-- include: outbox
-- include: reply
-- include: settings
-- include: strings
-- include: timers
-- include: write
-- `ended_in`: the names of the sessions with outcomes that this call has ended. `finalized`,
-- `opened`, `ended`, `drained`: how many utterances this call has finalized, how many outcomes it
-- has opened and ended, and how many of these had been held. `unfinished`: the delivery whose event
-- this call has appended and whose other writes it has not completed.
local delivery = { ended_in = {}, finalized = 0, opened = 0, ended = 0, drained = 0,
  unfinished = nil }
local as_text, as_number = numbers.text, numbers.value
local none = {}
local drained_max, ended_max, opened_max, finalized_max = 16, 8, 64, 8

call.on_reset(function() delivery.ended_in = {} end)

call.on_begin(function()
  delivery.unfinished = nil
  delivery.finalized, delivery.opened, delivery.ended, delivery.drained = 0, 0, 0, 0
end)

-- Whether this call has done so much that its remaining timers wait for the next call.
function delivery.is_exhausted()
  return delivery.ended >= ended_max or delivery.opened >= opened_max
    or delivery.finalized >= finalized_max
end

-- Whether this call may finalize so many more utterances, and open so many more outcomes.
function delivery.has_room(finalizes, outcomes)
  return delivery.finalized + finalizes <= finalized_max
    and delivery.opened + outcomes <= opened_max
end

-- The open outcomes of a session, and the oldest utterance that has one: its number, how many of
-- its outcomes are open, and the id of its first chunk. The session record stores them in the field
-- `outcomes` as `count|utterance|left|first`, together with the delivery numbers, so that a call
-- need not read the outcomes. `fields` has the outcomes that calls have read or opened, as
-- `utterance|first|to` by `target/number`; `known` is their number. `targets` is nil until it has
-- been read: the targets that have delivery numbers.
local function parse(stored)
  local count, utterance, left, first = string.match(stored or '', '^(%d+)|(%d+)|(%d+)|(.*)$')
  if not count then
    return { count = 0, utterance = nil, left = 0, first = '', known = 0, fields = {},
      targets = nil }
  end
  return { count = as_number[count], utterance = utterance, left = as_number[left], first = first,
    known = 0, fields = {}, targets = nil }
end

local cached = cache.register('outcomes', 'live', function(session)
  return parse(redis.call('HGET', keys.of('session', session), 'outcomes'))
end)

-- The caller has read the field `outcomes` of the session record.
function delivery.put_record(session, stored)
  if not cached.peek(session) then cached.put(session, parse(stored)) end
end

-- The field `outcomes` of the session record.
function delivery.record(session)
  local open = cached.read_through(session)
  if open.count == 0 then return '' end
  return as_text[open.count] .. '|' .. open.utterance .. '|' .. as_text[open.left] .. '|'
    .. open.first
end

-- The open outcome as it is stored, or nil. An outcome of another form is none: its number is
-- passed as missing.
local function find_stored(session, field)
  local open = cached.read_through(session)
  local stored = open.fields[field]
  if stored or open.known == open.count then return stored end
  stored = redis.call('HGET', keys.of('outcomes', session), field)
  if not stored or not string.find(stored, '^%d+|[^|]*|') then return nil end
  open.fields[field], open.known = stored, open.known + 1
  cached.grow(1)
  return stored
end

-- The number of open outcomes.
function delivery.count(session)
  return cached.read_through(session).count
end

-- The id of the first chunk of the oldest utterance with an open outcome; empty without one.
function delivery.oldest_chunk(session)
  return cached.read_through(session).first
end

-- The oldest utterance with an open outcome; nil without one.
function delivery.oldest_utterance(session)
  local oldest = cached.read_through(session).utterance
  return oldest and as_number[oldest]
end

-- The id of the first chunk of the utterance whose outcome is open; nil without an open outcome.
function delivery.first_chunk(session, target, number)
  local stored = find_stored(session, target .. '/' .. number)
  return stored and string.match(stored, '|([^|]*)|')
end

function delivery.has_ended(session)
  return cached.read_through(session).count == 0
end

-- An open outcome, or nil: { utterance, first, to }. `first` is the id of the first chunk of the
-- utterance, `to` the joined full ids of the recipients; empty stands for the speaker.
function delivery.find_outcome(session, target, number)
  local stored = find_stored(session, target .. '/' .. number)
  if not stored then return nil end
  local utterance, first, to = string.match(stored, '^(%d+)|([^|]*)|(.*)$')
  return { utterance = utterance, first = first, to = to }
end

-- Store outcomes of an utterance: `list` alternates `target/number` and `utterance|first|to`.
function delivery.open_outcomes(session, list)
  write('HSET', keys.of('outcomes', session), unpack(list))
end

-- The event of the utterance is appended, so its outcomes count.
function delivery.count_opened(session, list, targets, utterance, first)
  local open, count = cached.read_through(session), #targets
  for i = 1, #list, 2 do open.fields[list[i]] = list[i + 1] end
  open.known, open.count = open.known + count, open.count + count
  if not open.utterance and count > 0 then
    open.utterance, open.left, open.first = utterance, count, first
  end
  if open.targets then
    for _, item in ipairs(targets) do open.targets[item.target] = true end
  end
  cached.grow(count)
  delivery.finalized, delivery.opened = delivery.finalized + 1, delivery.opened + count
end

-- The session has closed, or retired.
function delivery.evict(session)
  cached.evict(session)
  outbox.evict(session)
end

-- The ending of the number is delivered.
local function remove_held(session, target, number)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  write('HDEL', held, field, field .. '/body', field .. '/audio')
  write('ZREM', keys.of('out_of_order_at', session, target), string.format('%d', number))
end

-- Complete the delivery whose event is in the log: the order moves on, and the outboxes that lack
-- the entry get it.
local function complete()
  local d = delivery.unfinished
  local boxes, name, order, next_no = d.boxes, d.speaker.name, 'd:' .. d.target,
    as_text[d.number + 1]
  if not d.has_moved and boxes[1] == d.speaker then
    outbox.append(d.speaker, 'result', d.text, d.body, d.audio, order, next_no, 'outcomes',
      delivery.record(name))
    d.appended = 1
  elseif not d.has_moved then
    write('HSET', d.speaker.session_key, order, next_no, 'outcomes', delivery.record(name))
  end
  d.speaker.next_no[d.target], d.has_moved = d.number + 1, true
  for i = d.appended + 1, #boxes do
    outbox.append(boxes[i], 'result', d.text, d.body, d.audio)
    d.appended = i
  end
  if d.is_held then remove_held(name, d.target, d.number) end
  delivery.unfinished = nil
end

-- A write of the delivery has failed: do the rest, before the call delivers another number or ends.
-- If a write fails again, `verify` reports what is missing.
function delivery.complete()
  if delivery.unfinished then pcall(complete) end
end

-- The outbox of the speaker, with the order of one target: `next_no` is the number that is
-- delivered next, `has_held` says whether later numbers are held.
local function speaker_of(session, target)
  delivery.complete()
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
    local full = speaker.full
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

-- The targets of a session that have delivery numbers, as a set.
local function targets_of(session, open)
  if not open.targets then
    open.targets = {}
    for _, field in ipairs(redis.call('HKEYS', keys.of('session', session))) do
      local target = string.match(field, '^a:(.*)$')
      if target then open.targets[target] = true end
    end
    -- The numbers of this call are stored at commit.
    for field in pairs(open.fields) do open.targets[string.match(field, '^(.*)/')] = true end
  end
  return open.targets
end

-- How many targets of a session have delivery numbers.
function delivery.target_count(session)
  local count = 0
  for _ in pairs(targets_of(session, cached.read_through(session))) do count = count + 1 end
  return count
end

-- The targets of a session that have delivery numbers, in order.
function delivery.targets(session)
  local list = {}
  for target in pairs(targets_of(session, cached.read_through(session))) do
    list[#list + 1] = target
  end
  table.sort(list)
  return list
end

local function clear_oldest(open)
  open.utterance, open.left, open.first = nil, 0, ''
end

-- Count an outcome, as it is stored, if its utterance is the oldest so far. Returns whether it is
-- an outcome.
local function count_if_oldest(open, stored)
  local utterance, first = string.match(stored, '^(%d+)|([^|]*)|')
  if not utterance then return false end
  if utterance == open.utterance then
    open.left = open.left + 1
  elseif not open.utterance or as_number[utterance] < as_number[open.utterance] then
    open.utterance, open.left, open.first = utterance, 1, first
  end
  return true
end

-- Set the oldest of these outcomes, each as it is stored. Returns their number.
local function set_oldest(open, outcomes)
  local count = 0
  clear_oldest(open)
  for _, stored in pairs(outcomes) do
    if count_if_oldest(open, stored) then count = count + 1 end
  end
  return count
end

local function read_all(session)
  return reply.by_name(redis.call('HGETALL', keys.of('outcomes', session)))
end

-- Find the oldest utterance with an open outcome. Outcomes end in order, so it is an utterance of
-- the next number of a target; of the target `ended` this is `next_number`. Bound: the targets; all
-- open outcomes if a number has no outcome.
local function find_oldest(session, open, ended, next_number)
  clear_oldest(open)
  if open.count == 0 then return end
  local missing
  for target in pairs(targets_of(session, open)) do
    local number = target == ended and next_number or speaker_of(session, target).next_no[target]
    local stored = find_stored(session, target .. '/' .. as_text[number])
    if stored then
      count_if_oldest(open, stored)
    else
      missing = missing or {}
      missing['a:' .. target] = number
    end
  end
  local has_hole = not open.utterance -- the count is wrong, or a number has no outcome
  for field, number in pairs(missing or none) do
    local allocated = redis.call('HGET', keys.of('session', session), field) or '0'
    has_hole = has_hole or tonumber(allocated) > number
  end
  if has_hole then open.count = set_oldest(open, read_all(session)) end
end

-- The event of the ending is appended, so the outcome is open no more.
local function count_ended(session, target, number, utterance)
  local open, field = cached.read_through(session), target .. '/' .. as_text[number]
  open.fields[field], open.known, open.count = nil, open.known - 1, open.count - 1
  cached.grow(-1)
  if utterance ~= open.utterance then return end
  open.left = open.left - 1
  if open.left == 0 then find_oldest(session, open, target, number + 1) end
end

-- Count the open outcomes of a session again: a call failed between two of its writes.
function delivery.count_again(session)
  local open = cached.read_through(session)
  open.count = set_oldest(open, read_all(session))
  write('HSET', keys.of('session', session), 'outcomes', delivery.record(session))
end

-- Append a partial result for the recipients. `d` is a table.
function delivery.publish_partial(session, outcome, d, body)
  if not outcome then return end -- it is lost, or has another form
  local d_json = cjson.encode(d)
  for _, box in ipairs((recipients_of(outbox.get(session), outcome))) do
    outbox.append_partial(box, d_json, body)
  end
end

-- Store an outcome again whose event could not be appended. `outcome` has no `first` if the number
-- had no outcome.
local function reopen_outcome(full, target, number, outcome)
  if not outcome.first then return end
  write('HSET', keys.of('outcomes', keys.name(full)), target .. '/' .. number,
    outcome.utterance .. '|' .. outcome.first .. '|' .. outcome.to)
end

-- Begin to deliver the next number of (session, target): the event is appended next. `ending` is
-- { kind, code, body, audio, job, cause, tp, reason, error }; `error` is JSON, which says why the
-- last attempt of a failed job failed, or nil: the outboxes have it as the body. `is_held` says
-- whether the ending is held.
-- Returns the delivery, and the joined full ids of all recipients and of those that have closed.
-- `speaker` is the outbox of the session.
local function begin(speaker, target, number, outcome, ending, is_held)
  local boxes, to, skipped = recipients_of(speaker, outcome)
  if outcome.first then
    write('HDEL', keys.of('outcomes', speaker.name), target .. '/' .. as_text[number])
  end
  return { speaker = speaker, target = target, number = number, outcome = outcome, ending = ending,
    boxes = boxes, appended = 0, is_held = is_held, has_moved = false }, to, skipped
end

-- The event of the delivery is appended: `complete` writes the rest.
local function set_delivered(d, id)
  local session, outcome, ending = d.speaker.name, d.outcome, d.ending
  if outcome.first then count_ended(session, d.target, d.number, outcome.utterance) end
  delivery.ended = delivery.ended + 1
  delivery.ended_in[session] = true
  d.body, d.audio = ending.error or ending.body or '', ending.audio or ''
  d.text = '{"session":"' .. d.speaker.full .. '","utterance":' .. outcome.utterance
    .. ',"target":"' .. d.target .. '","delivery_no":' .. as_text[d.number] .. ',"outcome":"'
    .. ending.kind .. '"' .. (json.optional(ending.code) and ',"code":' .. json.quote(ending.code)
      or '') .. ',"log":"' .. id .. '"}'
  delivery.unfinished = d
end

-- Deliver the next number of (session, target) with an event of its own; arguments as of `begin`.
local function deliver(session, target, number, outcome, ending, is_held)
  local speaker = speaker_of(session, target)
  local d, to, skipped = begin(speaker, target, number, outcome, ending, is_held)
  local append = ending.kind == 'missing' and events.ResultMissing or events.ResultDelivered
  set_delivered(d, call.or_else(reopen_outcome, append, speaker.full, target, as_text[number],
    outcome, ending, to, skipped))
  complete()
end

-- The number that is delivered next.
function delivery.next_number(session, target)
  return speaker_of(session, target).next_no[target]
end

-- The ending that is stored as this JSON; nil for anything else.
local function decode_held(stored)
  local is_json, ending = pcall(cjson.decode, stored)
  if not is_json or type(ending) ~= 'table' then return nil end
  for _, field in ipairs({ 'kind', 'job', 'tp' }) do
    if type(ending[field]) ~= 'string' then return nil end
  end
  return ending
end

local function load_held(session, target, number)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  local stored = redis.call('HMGET', held, field, field .. '/body', field .. '/audio')
  local ending = stored[1] and decode_held(stored[1])
  if not ending then return nil end
  ending.body, ending.audio = stored[2] or '', stored[3] or ''
  return ending
end

-- Set the gap timer by the ending that has been held for longest, or cancel the timer. The field
-- `w:<target>` of the session exists while endings of the target are held. `set` is timers.set, or
-- timers.set_earlier if endings were added: a timer that is due to deliver the rest stays.
local function update_gap_timer(session, target, set)
  local longest = redis.call('ZRANGE', keys.of('out_of_order_at', session, target), 0, 0,
    'WITHSCORES')
  local id = keys.full(session) .. '|' .. target
  local speaker = speaker_of(session, target)
  if longest[1] then
    set(tonumber(longest[2]) + settings.delivery_gap_timeout_ms, 'gap', id)
    write('HSET', keys.of('session', session), 'w:' .. target, '1')
  else
    timers.cancel('gap', id)
    write('HDEL', keys.of('session', session), 'w:' .. target)
  end
  speaker.has_held[target] = longest[1] ~= nil
end

-- Deliver the held endings that are next in order, at most 16 in a call. A gap timer that is due at
-- once delivers the rest. Returns whether the rest has to wait.
function delivery.drain_ready(session, target)
  local number, has_more = delivery.next_number(session, target), false
  while true do
    local outcome = delivery.find_outcome(session, target, number)
    local ending = outcome and load_held(session, target, number)
    if not ending then break end
    has_more = delivery.drained >= drained_max
    if has_more then break end
    deliver(session, target, number, outcome, ending, true)
    number, delivery.drained = number + 1, delivery.drained + 1
  end
  update_gap_timer(session, target, timers.set)
  if has_more then timers.set(clock.now(), 'gap', keys.full(session) .. '|' .. target) end
  return has_more
end

-- Hold an ending until its predecessors have ended. `log_id` is that of the event of the result.
function delivery.hold(session, target, number, ending, log_id)
  local held, field = keys.of('out_of_order', session), target .. '/' .. number
  local body, audio = ending.body or '', ending.audio or ''
  ending.body, ending.audio = nil, nil
  if log_id then ending.cause = 'log/' .. log_id end
  write('HSET', held, field, cjson.encode(ending), field .. '/body', body)
  if audio ~= '' then write('HSET', held, field .. '/audio', audio) end
  write('ZADD', keys.of('out_of_order_at', session, target), 'NX', clock.text(),
    string.format('%d', number))
  update_gap_timer(session, target, timers.set_earlier)
end

-- A held ending without body and audio, or nil. A held ending that cannot be read is none: its
-- number is passed as missing.
function delivery.find_held(session, target, number)
  local stored = redis.call('HGET', keys.of('out_of_order', session), target .. '/' .. number)
  return stored and decode_held(stored) or nil
end

-- The job has failed: deliver the ending if its number is next, else hold it.
function delivery.publish(session, target, number, ending)
  local outcome = delivery.find_outcome(session, target, number)
  if not outcome then return end
  number = tonumber(number)
  if delivery.next_number(session, target) ~= number then
    delivery.hold(session, target, number, ending)
    return
  end
  deliver(session, target, number, outcome, ending)
  if speaker_of(session, target).has_held[target] then delivery.drain_ready(session, target) end
end

-- The job ends, and the event of its result is appended.
local function append_result(job, result, delivered)
  jobs.set_ended(job, result.status, result.code)
  return events.ResultRecorded(job, result, delivered)
end

-- The event could not be appended: the job runs, and its outcome is open.
local function restore_result(job, _, _, outcome)
  jobs.restore(job)
  reopen_outcome(job.session, job.target, job.delivery_no, outcome)
end

-- End a job with a result. The event of the result also delivers it if the number is next; else the
-- result is held. After the event `release` frees the slot of the job, before anything else is
-- written. Returns the id of the event, and what `release` has returned.
function delivery.record_result(job, result, ending, release)
  local session, target, number = job.name, job.target, as_number[job.delivery_no]
  local outcome = delivery.find_outcome(session, target, job.delivery_no)
  local speaker = outcome and speaker_of(session, target)
  if not outcome or speaker.next_no[target] ~= number then
    local id = call.or_else(jobs.restore, append_result, job, result)
    local freed = release(job)
    if outcome then delivery.hold(session, target, number, ending, id) end
    return id, freed
  end
  local d, to, skipped = begin(speaker, target, number, outcome, ending)
  local id = call.or_else(restore_result, append_result, job, result,
    events.delivered(to, skipped), outcome)
  set_delivered(d, id)
  local freed = release(job)
  complete()
  if speaker.has_held[target] then delivery.drain_ready(session, target) end
  return id, freed
end

-- End the next number as missing although it has no open outcome: an earlier call failed after it
-- had allocated the number. The speaker receives it, because the recipients are not known.
function delivery.skip_hole(s, target, number)
  remove_held(s.name, target, number)
  deliver(s.name, target, number, { utterance = '-1', to = '' },
    { kind = 'missing', reason = 'no_outcome', code = 'NO_OUTCOME', job = '', tp = s.tp })
end

-- End the next number as missing. `outcome` is open.
function delivery.skip(session, target, number, outcome, ending)
  local held = keys.of('out_of_order', session)
  if redis.call('HEXISTS', held, target .. '/' .. as_text[number]) == 1 then
    remove_held(session, target, number)
  end
  deliver(session, target, number, outcome, ending)
end
return delivery
