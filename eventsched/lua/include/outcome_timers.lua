-- outcome_timers: the timers of outcomes that did not end in time: gap (rule 25, ordered delivery)
-- and close (rule 6, two-step close). Outcomes are skipped in order. A call that has ended 8
-- outcomes leaves the rest to a timer that is due at once.
-- include: assign
-- include: attempts
-- include: clock
-- include: closing
-- include: delivery
-- include: jobs
-- include: keys
-- include: sessions
-- include: settings
-- include: strings
-- include: timers
-- include: utterances
-- include: write
local outcome_timers = {}

-- Skip the next number and cancel its job; a damaged job is left to `repair`. Adds the node with
-- the freed slot to `freed`.
local function skip(s, target, number, reason, freed)
  local outcome = delivery.find_outcome(s.name, target, number)
  if not outcome then return delivery.skip_hole(s, target, number) end
  local key = table.concat({ s.tenant, s.full, string.format('%d', outcome.utterance),
    'translation', target, s.features_hash }, ':')
  local job = jobs.find(key)
  delivery.skip(s.name, target, number, outcome,
    { kind = 'missing', reason = reason, job = key, tp = job and job.tp or s.tp })
  local node = job and attempts.cancel(job, '')
  if node then freed[node.name] = node end
end

-- Fill the freed nodes after all skips.
local function fill_all(freed)
  local names = {}
  for name in pairs(freed) do names[#names + 1] = name end
  table.sort(names, strings.precedes)
  for _, name in ipairs(names) do assign.fill(freed[name], '') end
end

-- An ending was held for the delivery gap timeout: the numbers before it are skipped, and the
-- ending is delivered. If the ending cannot be delivered, the timer backs off.
function outcome_timers.gap(id)
  local full, target = string.match(id, '^(.-)|(.*)$')
  local s = sessions.get(keys.name(full), true)
  if not s then return end
  local held_since = keys.of('out_of_order_at', s.name, target)
  local longest = redis.call('ZRANGE', held_since, 0, 0, 'WITHSCORES')
  if not longest[1] then return end
  local held_no, held_at = tonumber(longest[1]), tonumber(longest[2])
  local first, freed = delivery.next_number(s.name, target), {}
  local is_due, number = clock.now() >= held_at + settings.delivery_gap_timeout_ms, first
  while is_due and number < held_no and not delivery.is_exhausted() do
    -- More endings are held than one step delivers.
    if delivery.find_outcome(s.name, target, number)
      and delivery.find_held(s.name, target, number) then break end
    skip(s, target, number, 'gap', freed)
    delivery.drain_ready(s.name, target)
    number = delivery.next_number(s.name, target)
  end
  delivery.drain_ready(s.name, target)
  fill_all(freed)
  if is_due and delivery.next_number(s.name, target) == first then timers.back_off('gap|' .. id) end
end

-- The close wait is over: open outcomes end as missing. If none can end, the timer backs off. Audio
-- that is not finalized yet, because the call that closed the session failed, gets a wait of its
-- own.
function outcome_timers.close(full)
  local s = sessions.get(keys.name(full), true)
  if not s or s.status ~= 'closing' then return end
  if s.buf_bytes > 0 then
    utterances.check_numbers(s)
    timers.set(clock.now() + settings.close_wait_ms, 'close', full)
    closing.finalize(s)
    return
  end
  local skipped, has_advanced, freed = 0, false, {}
  for _, target in ipairs(delivery.targets(s.name)) do
    local first, allocated = delivery.next_number(s.name, target), sessions.next_number(s, target)
    local number = first
    while number < allocated and not delivery.is_exhausted() and not delivery.has_ended(s.name) do
      if not delivery.find_outcome(s.name, target, number)
        or not delivery.find_held(s.name, target, number) then
        skip(s, target, number, 'close', freed)
        skipped = skipped + 1
      end
      if delivery.drain_ready(s.name, target) then break end
      number = delivery.next_number(s.name, target)
    end
    has_advanced = has_advanced or delivery.next_number(s.name, target) > first
  end
  write('HINCRBY', keys.of('session', s.name), 'missing', skipped)
  if not has_advanced then delivery.count_again(s.name) end
  if has_advanced or delivery.has_ended(s.name) then
    timers.set(clock.now(), 'close', full)
  else
    timers.back_off('close|' .. full)
  end
  delivery.ended_in[s.name] = true
  fill_all(freed)
end
return outcome_timers
