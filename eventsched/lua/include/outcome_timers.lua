-- outcome_timers: the timers of outcomes that did not end in time: gap (rule 25, ordered delivery)
-- and close (rule 6, two-step close). Outcomes are skipped in order, at most 32 a call.
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
-- include: write
local outcome_timers = {}

-- Skip the next number and cancel its job. Adds the node with the freed slot to `freed`.
local function skip(s, target, number, reason, freed)
  local outcome = delivery.find_outcome(s.name, target, number)
  local key = table.concat({ s.tenant, s.full, string.format('%d', outcome.utterance),
    'translation', target, s.features_hash }, ':')
  local job = jobs.load(key)
  delivery.skip(s.name, target, number, outcome,
    { kind = 'missing', reason = reason, job = key, tp = s.tp })
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
-- ending is delivered.
function outcome_timers.gap(id)
  local full, target = string.match(id, '^(.-)|(.*)$')
  local s = sessions.get(keys.name(full))
  if not s then return end
  local held_since = keys.of('out_of_order_at', s.name, target)
  local longest = redis.call('ZRANGE', held_since, 0, 0, 'WITHSCORES')
  if not longest[1] then return end
  local held_no, held_at = tonumber(longest[1]), tonumber(longest[2])
  local number, skipped, freed = delivery.next_number(s.name, target), 0, {}
  while clock.now() >= held_at + settings.delivery_gap_timeout_ms and number < held_no
    and skipped < closing.skipped_max do
    -- More endings are held than one step delivers.
    if delivery.find_held(s.name, target, number) then break end
    skip(s, target, number, 'gap', freed)
    skipped = skipped + 1
    delivery.drain_ready(s.name, target)
    number = delivery.next_number(s.name, target)
  end
  delivery.drain_ready(s.name, target)
  fill_all(freed)
end

-- The targets with open outcomes, in order.
local function open_targets(s)
  local is_listed, targets = {}, {}
  for field in pairs(delivery.open_outcomes(s.name)) do
    local target = string.match(field, '^(.*)/%d+$')
    if not is_listed[target] then
      is_listed[target] = true
      targets[#targets + 1] = target
    end
  end
  table.sort(targets)
  return targets
end

-- The close wait is over: open outcomes end as missing.
function outcome_timers.close(full)
  local s = sessions.get(keys.name(full))
  if not s or s.status ~= 'closing' then return end
  local skipped, freed = 0, {}
  for _, target in ipairs(open_targets(s)) do
    local number = delivery.next_number(s.name, target)
    while skipped < closing.skipped_max and delivery.find_outcome(s.name, target, number) do
      if not delivery.find_held(s.name, target, number) then
        skip(s, target, number, 'close', freed)
        skipped = skipped + 1
      end
      if delivery.drain_ready(s.name, target) == delivery.step_max then break end
      number = delivery.next_number(s.name, target)
    end
  end
  write('HINCRBY', keys.of('session', s.name), 'missing', skipped)
  timers.set(clock.now(), 'close', full)
  delivery.ended_in[s.name] = true
  fill_all(freed)
end
return outcome_timers
