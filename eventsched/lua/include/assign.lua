-- assign: the only code that gives a job to a node (rules 15-18, 20).
-- include: affinity
-- include: cache
-- include: call
-- include: classes
-- include: clock
-- include: events
-- include: jobs
-- include: keys
-- include: nodes
-- include: numbers
-- include: queue
-- include: settings
-- include: write
local assign = { filled_max = 8, policy = '1' }
call.on_begin(function() assign.deadlines = {} end)

local function live_group()
  local live = redis.call('GET', keys.of('active_revision', 'group'))
  return live and 'group:' .. live
end

-- The group's context for this job: copied unread, never waited for (rule 29).
local function context_of(job)
  local live = cache.once('live', live_group)
  if not live then return '', '' end
  local view = redis.call('HMGET', keys.of('view', live, job.name),
    'context:' .. job.target, 'at')
  if not view[1] then return '', '' end
  return view[1], view[2] or ''
end

-- When a lease that begins now ends, as text, for so much audio, as text. Rule 19: it lasts
-- clamp(ceil(base_s + audio_s * factor), 15, 60) seconds, in integers. A call makes each text once.
local function deadline_of(audio_ms)
  local deadline = assign.deadlines[audio_ms]
  if not deadline then
    local thousandths = settings.lease_base_ms + audio_ms * settings.lease_factor_thousandths / 1000
    local ms = math.min(math.max(math.ceil(thousandths / 1000) * 1000, nodes.lease_ms_min), 60000)
    deadline = numbers.text[clock.now() + ms]
    assign.deadlines[audio_ms] = deadline
  end
  return deadline
end

-- Why the node that the turn or session used last is passed over; empty when it can be taken.
local function affinity_why(name, job, serving)
  local node = nodes.get(name)
  if not node or node.status == 'gone' then return 'gone' end
  if node.status == 'draining' then return 'draining' end
  if serving.has[node.class] then
    if not nodes.has_slot(node) then return 'full' end
    return name == job.avoid and 'last' or ''
  end
  return nodes.declares(node, job) and 'marked' or 'unable'
end

-- The least loaded head: smallest (load, id). A candidate other than `last` is preferred; if
-- `last` is the only one, it is taken.
local function least_loaded(serving, last)
  local best, spare
  for _, class in ipairs(serving) do
    local front = classes.first_free(class)
    local first = front[1]
    if last and first and first.name == last then first, spare = front[2], first end
    if first and (not best or classes.precedes(first.name, first.load, best)) then best = first end
  end
  best = best or spare
  return best and best.name
end

-- As the items of a JSON array; nothing where no class can do it. What has not changed is not put
-- together anew.
local function evidence(serving)
  local seen, changed = serving.seen, false
  for i = 1, #serving do
    local told = serving[i].seen or classes.evidence(serving[i])
    if seen[i] ~= told then seen[i], changed = told, true end
  end
  if changed then serving.told = table.concat(seen, ',') end
  return serving.told
end

-- Decide: a node and the evidence for it, or the reason to wait. Changes nothing.
local function choose(job)
  local serving, declared = classes.matching(job.source, job.target, job.features)
  local choice = { classes = evidence(serving), last = job.avoid and keys.full(job.avoid),
    node = nil, rule = nil, affinity = nil, reason = nil, policy = assign.policy }
  local used, used_turn = affinity.get(job.name)
  if used ~= '' then
    local why = affinity_why(used, job, serving)
    choice.affinity = events.affinity(used, why)
    if why == '' then
      choice.node = used
      choice.rule = used_turn == job.turn and 'turn' or 'session'
      return choice
    end
  end
  choice.node = least_loaded(serving, job.avoid)
  choice.rule = choice.node and choice.node == job.avoid and 'last' or 'load'
  choice.reason = queue.reason(declared)
  return choice
end

-- Take the slot, write the job, append the event, put the assignment into the node's inbox.
local function give(job, choice, cause)
  local node = nodes.get(choice.node)
  local context, context_at = context_of(job)
  local deadline = deadline_of(job.ms)
  local token = '"attempt":' .. numbers.text[job.attempt] .. ',"epoch":' .. node.epoch_told .. ',"deadline_ms":'
    .. deadline
  nodes.acquire_slot(node, job.key)
  jobs.set_running(job, node, deadline)
  affinity.set(job.name, node.name, job.turn)
  local id = events.JobDispatched(job, node, cause, choice, deadline, context_at)
  write('XADD', node.inbox, clock.entry_id(), 't', 'assign',
    'j', job.key, 'c', 'log/' .. id, 'd', job.head .. job.rest .. ',' .. token
      .. ',"context_at":"' .. context_at .. '"}', 'b', context)
end

local function best_two(heads)
  local best, second, compared = nil, nil, 0
  for _, head in pairs(heads) do
    compared = compared + 1
    if not best or queue.precedes(head, best) then
      best, second = head, best
    elseif not second or queue.precedes(head, second) then
      second = head
    end
  end
  return best, second, compared
end

-- The node has a free slot: the best of the first 64 waiting demands of its class takes it, at
-- most 8 times; what is left becomes one `fill` entry in `work`.
function assign.fill(node, cause)
  if not nodes.has_slot(node) then return 0 end
  local free, given, heads = node.slots - nodes.lease_count(node), 0, {}
  local demands = classes.demands(node.class)
  if #demands == 0 then return 0 end
  for _, demand in ipairs(demands) do heads[demand] = queue.head(demand) end
  while free > 0 and given < assign.filled_max do
    local best, second, compared = best_two(heads)
    if not best then break end
    local job = jobs.load(string.sub(best.member, 18))
    queue.take(job)
    local choice = {
      node = node.name, rule = 'fill', classes = evidence(classes.only(node.class)),
      compared = numbers.text[compared], winner = best, runner_up = second, policy = assign.policy,
    }
    give(job, choice, cause)
    heads[best.demand] = queue.head(best.demand)
    free, given = free - 1, given + 1
  end
  for _, demand in ipairs(demands) do
    if heads[demand] then classes.rotate(node.class, demand) end
  end
  if free > 0 and #classes.demands(node.class) > 0 then
    write('XADD', keys.dispatch, clock.entry_id(), 'k', 'fill', 'd', node.name)
  end
  return given
end

-- A job that needs a slot: while jobs of its demand wait it joins them, then a free node fills.
-- job.avoid is the node of the attempt before; job.attempt the attempt to start. `freed` is the
-- node whose slot this job has just given back: others that wait for it are compared first.
-- Returns nothing, or why it waits: no node at all for it, or none with a slot (rule 15).
function assign.place(job, cause, freed)
  if queue.has_waiting(queue.demand_of(job)) then
    local serving, declared = classes.matching(job.source, job.target, job.features)
    local reason = queue.reason(declared)
    queue.add(job, reason, cause)
    local name = least_loaded(serving, nil)
    if not name then return reason end
    assign.fill(nodes.get(name), cause)
    return nil
  end
  local choice = choose(job)
  if choice.node and not (freed and choice.node == freed.name
    and #classes.demands(freed.class) > 0) then
    give(job, choice, cause)
    return nil
  end
  queue.add(job, choice.reason, cause)
  return choice.reason
end
return assign
