-- assign: the only code that gives a job to a node (rules 15-18, 20).
-- include: affinity
-- include: cache
-- include: call
-- include: classes
-- include: clock
-- include: dispatch_entry
-- include: events
-- include: jobs
-- include: keys
-- include: nodes
-- include: numbers
-- include: queue
-- include: settings
-- include: write
local assign = { deadlines = {}, filled_max = 8 }
local policy = '1'
local as_text = numbers.text

call.on_begin(function() assign.deadlines = {} end)

local group_view = cache.register_single('group_view', 'stable', function()
  local live = redis.call('GET', keys.of('active_revision', 'group'))
  return live and 'group:' .. live
end)

-- The context that the group view has for this job, and the log id that the view is at. Dispatch
-- copies it as it is and never waits for it (rule 29).
local function context_of(job)
  local view = group_view.read_through()
  if not view then return '', '' end
  local stored = redis.call('HMGET', keys.of('view', view, job.name), 'context:' .. job.target, 'at')
  if not stored[1] then return '', '' end
  return stored[1], stored[2] or ''
end

-- When a lease that begins now ends, as text, for `audio_ms` as text. Rule 19: it lasts
-- clamp(ceil(base_s + audio_s * factor), 15, 60) seconds, in whole seconds. The call computes each
-- once.
local function deadline_of(audio_ms)
  local deadline = assign.deadlines[audio_ms]
  if not deadline then
    local lease_ms = settings.lease_base_ms + audio_ms * settings.lease_factor_thousandths / 1000
    local ms = math.min(math.max(math.ceil(lease_ms / 1000) * 1000, nodes.lease_ms_min), 60000)
    deadline = as_text[clock.now() + ms]
    assign.deadlines[audio_ms] = deadline
  end
  return deadline
end

-- Why the node that the session used last is passed over; empty when it can take the job.
local function reason_against(name, job, matching)
  local node = nodes.get(name)
  if not node or node.status == 'gone' then return 'gone' end
  if node.status == 'draining' then return 'draining' end
  if matching.has[node.class] then
    if not nodes.has_slot(node) then return 'full' end
    return name == job.avoid and 'last' or ''
  end
  return nodes.declares(node, job) and 'suspended' or 'unable'
end

-- The name of the least loaded node of these classes: smallest (load, name). A node other than
-- `last` is preferred; `last` is chosen if it is the only one.
local function least_loaded(matching, last)
  local best, spare
  for _, class in ipairs(matching) do
    local list = classes.first_free(class)
    local first = list[1]
    if last and first and first.name == last then first, spare = list[2], first end
    if first and (not best or classes.precedes(first.name, first.load, best)) then best = first end
  end
  best = best or spare
  return best and best.name
end

-- The decision: a node and the evidence for it, or the reason to wait. Changes nothing.
local function choose(job)
  local matching, is_declared = classes.matching(job.source, job.target, job.features)
  local choice = { classes = classes.evidence(matching), last = job.avoid and keys.full(job.avoid),
    policy = policy, node = nil, rule = nil, affinity = nil, reason = nil }
  local used, used_turn = affinity.get(job.name)
  if used ~= '' then
    local why = reason_against(used, job, matching)
    choice.affinity = events.affinity(used, why)
    if why == '' then
      choice.node = used
      choice.rule = used_turn == job.turn and 'turn' or 'session'
      return choice
    end
  end
  choice.node = least_loaded(matching, job.avoid)
  choice.rule = choice.node and choice.node == job.avoid and 'last' or 'load'
  choice.reason = queue.reason(is_declared)
  return choice
end

-- Take the slot, write the job, append the event, put the assignment into the inbox of the node.
local function give(job, choice, cause)
  local node = nodes.get(choice.node)
  local context, context_at = context_of(job)
  local deadline = deadline_of(job.ms)
  nodes.acquire_slot(node, job.key)
  jobs.set_running(job, node, deadline)
  affinity.set(job.name, node.name, job.turn)
  local id = events.JobDispatched(job, node, cause, choice, deadline, context_at)
  write('XADD', node.inbox, clock.entry_id(), 't', 'assign', 'j', job.key, 'c', 'log/' .. id,
    'd', job.head .. job.rest .. ',"attempt":' .. as_text[job.attempt] .. ',"epoch":' .. node.epoch_text
      .. ',"deadline_ms":' .. deadline .. ',"context_at":"' .. context_at .. '"}', 'b', context)
end

-- Of the next jobs of several requirements the first two, and how many were compared.
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

-- The node has a free slot: the best of the first 64 waiting requirements of its class takes it, at most
-- 8 times; what is left becomes one `fill` entry in `work`. Returns how many jobs were given.
function assign.fill(node, cause)
  if not nodes.has_slot(node) then return 0 end
  local free, given, heads = node.slots - nodes.lease_count(node), 0, {}
  local requirements = classes.requirements(node.class)
  if #requirements == 0 then return 0 end
  for _, requirement in ipairs(requirements) do heads[requirement] = queue.head(requirement) end
  while free > 0 and given < assign.filled_max do
    local best, second, compared = best_two(heads)
    if not best then break end
    local job = jobs.load(string.sub(best.member, 18))
    queue.take(job)
    give(job, { node = node.name, rule = 'fill', classes = classes.evidence(classes.only(node.class)),
      policy = policy, compared = as_text[compared], winner = best, runner_up = second }, cause)
    heads[best.requirement] = queue.head(best.requirement)
    free, given = free - 1, given + 1
  end
  for _, requirement in ipairs(requirements) do
    if heads[requirement] then classes.rotate(node.class, requirement) end
  end
  if free > 0 and #classes.requirements(node.class) > 0 then dispatch_entry.append_fill(node.name) end
  return given
end

-- A job needs a slot. While jobs with its requirement wait it joins them, and a free node takes the best
-- of them. job.attempt is the attempt to start, job.avoid the node of the one before. `freed` is
-- the node whose slot this job has just released: other jobs that wait for that node are compared
-- first. Returns nil, or why the job waits: no node at all, or none with a free slot (rule 15).
function assign.place(job, cause, freed)
  if queue.has_waiting(queue.requirement_of(job)) then
    local matching, is_declared = classes.matching(job.source, job.target, job.features)
    local reason = queue.reason(is_declared)
    queue.add(job, reason, cause)
    local name = least_loaded(matching, nil)
    if not name then return reason end
    assign.fill(nodes.get(name), cause)
    return nil
  end
  local choice = choose(job)
  if choice.node and not (freed and choice.node == freed.name
    and #classes.requirements(freed.class) > 0) then
    give(job, choice, cause)
    return nil
  end
  queue.add(job, choice.reason, cause)
  return choice.reason
end
return assign
