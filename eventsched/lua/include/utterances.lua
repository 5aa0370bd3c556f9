-- utterances: appends chunks and finalizes utterances. A finalize opens the outcomes of the
-- utterance and starts its jobs (rules 1, one order per session; 2, finalize reasons; 3, no empty
-- utterance; 4, silence per utterance; 12, audience).
-- include: clock
-- include: delivery
-- include: dispatch_entry
-- include: eager_dispatch
-- include: events
-- include: job_retention
-- include: json
-- include: keys
-- include: numbers
-- include: playback
-- include: session_audio
-- include: sessions
-- include: settings
-- include: strings
-- include: timers
local utterances = {}
local as_text = numbers.text
local targets_max, none = 64, {}
local padding_ms =
  { pause = '220', max_duration = '220', final = '280', max_bytes = '0', close = '220' }

local function empty_buffer(s)
  s.buf_count, s.buf_bytes, s.buf_ms, s.buf_seq = 0, 0, 0, 0
  s.buf_first, s.buf_last = '', ''
  s.is_dirty = true
end

-- The targets of the session in order, which never change.
local function targets_of(s)
  if not s.ordered_targets then
    s.ordered_targets = strings.split(s.targets)
    table.sort(s.ordered_targets)
  end
  return s.ordered_targets
end

-- In a room there is one job for each language to which other members listen (rule 12, audience).
-- Alone, or if no other member listens, there is one job for each target of the session, for the
-- speaker. Returns the targets in order and, by target, the full ids of its recipients.
local function recipients_of(s)
  if s.room == '' then return targets_of(s), none end
  local by_target, order = {}, {}
  local members = redis.call('HGETALL', keys.room(s.room))
  for i = 1, #members, 2 do
    local language = members[i + 1]
    if members[i] ~= s.full and language ~= '' then
      if not by_target[language] then
        by_target[language] = {}
        order[#order + 1] = language
      end
      table.insert(by_target[language], members[i])
    end
  end
  if #order == 0 then return targets_of(s), none end
  table.sort(order)
  for _, recipients in pairs(by_target) do table.sort(recipients) end
  return order, by_target
end

-- Whether the session may have a further target. A target is one for ever, since its delivery
-- numbers go on, and members of a room may come and go with ever new languages.
local function has_place(s, new_count)
  return s.room == '' or delivery.target_count(s.name) + new_count < targets_max
end

-- Each target gets its next delivery number and an open outcome. `sessions` stores the numbers at
-- commit: a call that fails before the event uses no number. Returns the targets as { target,
-- delivery_no }, the outcomes as `delivery.open_outcomes` takes them, and the items of the event.
local function open_outcomes(s)
  local order, by_target = recipients_of(s)
  local targets, outcomes, items = {}, {}, {}
  local stored, count, new_count = as_text[s.utterance] .. '|' .. s.buf_first .. '|', 0, 0
  for _, target in ipairs(order) do
    local next_number = sessions.next_number(s, target)
    local is_new = next_number == 0
    if not is_new or has_place(s, new_count) then
      count, new_count = count + 1, new_count + (is_new and 1 or 0)
      local number = as_text[next_number]
      local to = by_target[target] and table.concat(by_target[target], ',') or ''
      targets[count] = { target = target, delivery_no = number }
      items[count] = events.target(target, number, to)
      outcomes[2 * count - 1], outcomes[2 * count] = target .. '/' .. number, stored .. to
    end
  end
  if targets[1] then delivery.open_outcomes(s.name, outcomes) end
  return targets, outcomes, table.concat(items, ',')
end

-- Raise STATE_DAMAGED, before the first write, if the session lacks a number that `finalize` needs.
function utterances.check_numbers(s)
  for _, target in ipairs((recipients_of(s))) do sessions.next_number(s, target) end
end

-- Finalize the open utterance, once: the index of the session advances (rules 2, finalize reasons;
-- 3, no empty utterance). `tp` is the traceparent of the utterance; nil for that of the session.
function utterances.finalize(s, reason, tp)
  tp = tp or s.tp
  local targets, outcomes, items = open_outcomes(s)
  local utterance, turn, ms = as_text[s.utterance], as_text[s.turn], as_text[s.buf_ms]
  local range = '"first":"' .. s.buf_first .. '","last":"' .. s.buf_last .. '","count":'
    .. as_text[s.buf_count] .. ',"bytes":' .. as_text[s.buf_bytes] .. ',"padding_ms":'
    .. padding_ms[reason]
  local id = events.UtteranceFinalized(s, tp, reason, padding_ms[reason], items)
  delivery.count_opened(s.name, outcomes, targets, utterance, s.buf_first)
  s.utterance = s.utterance + 1
  for _, item in ipairs(targets) do sessions.allocate_number(s, item.target) end
  if reason ~= 'max_duration' then s.turn = s.turn + 1 end
  s.has_new_utterance = true
  empty_buffer(s)
  if not targets[1] then
    session_audio.trim(s)
    return job_retention.retire(s)
  end
  eager_dispatch.dispatch({ is_new = true, session = s.full, name = s.name, utterance = utterance,
    turn = turn, ms = ms, tenant = s.tenant, source = s.source, features_hash = s.features_hash,
    log = id,
    tp = tp, priority = s.priority, targets = targets, features = s.features,
    rest = dispatch_entry.details(tp, s.tenant, turn, s.source, ms, as_text[s.priority],
      '"encoding":"' .. s.encoding .. '","sample_rate":' .. s.sample_rate
      .. json.list_field('features', s.features) .. json.string_field('key', s.key) .. ','
      .. range) })
  session_audio.trim(s)
  job_retention.retire(s)
end

-- How many utterances the next chunk would finalize.
local function count_of(s, ms, end_of_utterance, bytes)
  local is_paused = s.buf_bytes > 0 and clock.now() - s.buf_at >= settings.pause_ms
    and not playback.is_active(s)
  if not is_paused then bytes, ms = bytes + s.buf_bytes, ms + s.buf_ms end
  local is_complete = bytes > 0 and (end_of_utterance or ms >= settings.audio_ms_max
    or bytes > settings.audio_bytes_max)
  return (is_paused and 1 or 0) + (is_complete and 1 or 0)
end

-- How many utterances the next chunk would finalize, and how many outcomes they would open.
function utterances.count_finalizes(s, ms, end_of_utterance, bytes)
  local count = count_of(s, ms, end_of_utterance, bytes)
  return count, count > 0 and count * #recipients_of(s) or 0
end

-- As `check_numbers`, if the next chunk would finalize an utterance.
function utterances.check_next(s, ms, end_of_utterance, bytes)
  if count_of(s, ms, end_of_utterance, bytes) > 0 then utterances.check_numbers(s) end
end

-- Store the next chunk (rule 2, finalize reasons: steps a to c). An empty chunk that belongs to no
-- utterance has its number and is not stored, because nothing would trim it. `tp` is the
-- traceparent of the utterance that ends with the chunk, or nil. Returns the finalized utterances,
-- each after a space.
function utterances.append(s, seq, ms, end_of_utterance, payload, tp)
  local now, finalized = clock.now(), ''
  if s.buf_bytes > 0 and now - s.buf_at >= settings.pause_ms and not playback.is_active(s) then
    finalized = ' ' .. as_text[s.utterance]
    utterances.finalize(s, 'pause')
  end
  if #payload == 0 and s.buf_bytes == 0 then
    s.next_seq, s.seen_at, s.is_dirty = seq + 1, now, true
    return finalized
  end
  if s.buf_count == 0 then timers.set(now + settings.pause_ms, 'pause', s.full) end
  local id = events.AudioChunkAppended(s, seq, ms, end_of_utterance, payload)
  s.next_seq, s.seen_at, s.is_dirty = seq + 1, now, true
  if s.buf_count == 0 then s.buf_first, s.buf_seq = id, seq end
  s.buf_last, s.buf_at, s.buf_count = id, now, s.buf_count + 1
  s.buf_bytes, s.buf_ms = s.buf_bytes + #payload, s.buf_ms + ms
  local reason
  if s.buf_ms >= settings.audio_ms_max then reason = 'max_duration' end
  if end_of_utterance then reason = 'final' end
  if s.buf_bytes > settings.audio_bytes_max then reason = 'max_bytes' end
  if reason and s.buf_bytes > 0 then
    finalized = finalized .. ' ' .. as_text[s.utterance]
    utterances.finalize(s, reason, tp)
  end
  return finalized
end
return utterances
