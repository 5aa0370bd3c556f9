-- assign: chooses a node for a job and dispatches the job; no other code does (rules 15, two
-- reasons to wait; 16, choosing a node; 17, evidence; 18, fair waiting; 20, dispatching again).
-- include: affinity
-- include: cache
-- include: call
-- include: class_nodes
-- include: classes
-- include: clock
-- include: dispatch_entry
-- include: events
-- include: jobs
-- include: keys
-- include: nodes
-- include: numbers
-- include: ordered_set
-- include: queue
-- include: settings
-- include: write
local assign = { deadlines = nil, fills_max = 8 }
local policy, damaged_max = '1', 8
local as_text = numbers.text

call.on_begin(function() assign.deadlines = nil end)

local context_max = 65536
local group_view = cache.register_single('group_view', 'stable', function()
  local live = redis.call('GET', keys.of('active_revision', 'group'))
  return live and 'group:' .. live
end)

-- The context of this job in the group view, and the log id up to which the view is folded.
-- Dispatch copies both unread and never waits for a later context (rule 29, context of a job). A
-- context that is too large is not sent (rule 33, limits).
local function context_of(job)
  local view = group_view.read_through()
  if not view then return '', '' end
  local stored =
    redis.call('HMGET', keys.of('view', view, job.name), 'context:' .. job.target, 'at')
  if not stored[1] or #stored[1] > context_max then return '', '' end
  return stored[1], stored[2] or ''
end

-- When a lease that begins now ends, as text, for `audio_ms` as text. The lease lasts
-- clamp(ceil(base_s + audio_s * factor), 15, 60) seconds (rule 19, lease duration). A call computes
-- each deadline once.
local function deadline_of(audio_ms)
  local deadlines = assign.deadlines or {}
  local deadline = deadlines[audio_ms]
  if not deadline then
    local lease_ms = settings.lease_base_ms + audio_ms * settings.lease_factor_thousandths / 1000
    local ms = math.min(math.max(math.ceil(lease_ms / 1000) * 1000, nodes.lease_ms_min), 60000)
    deadline = as_text[clock.now() + ms]
    deadlines[audio_ms] = deadline
    assign.deadlines = deadlines
  end
  return deadline
end

-- Why the last node of the session is not chosen; empty if it can take the job.
local function rejection_of(node, job, matching)
  if not node or node.status == 'gone' then return 'gone' end
  if node.status == 'draining' then return 'draining' end
  if matching.has[node.class] then
    if not nodes.has_slot(node) then return 'full' end
    return node.name == job.avoid and 'last' or ''
  end
  return nodes.declares(node, job) and 'suspended' or 'unable'
end

-- The least loaded node of these classes, or nil: the smallest (load, name). A node other than the
-- node named `last` is preferred: if that node is the least loaded one, the next node of its class
-- or the head of the next class. `last` is chosen if no other node has a free slot. A node whose
-- record is damaged leaves the nodes with a free slot: at most 8 in a call.
local function least_loaded(matching, last)
  for _ = 1, damaged_max do
    local best, second = class_nodes.first_heads(matching)
    local id = best and best.id
    if best and best.name == last then
      local other = class_nodes.second_free(best.id)
      if not other or second and ordered_set.precedes(second.name, second.load, other) then
        other, id = second, second and second.id or id
      end
      best = other or best
    end
    local node = best and nodes.find(best.name)
    if not best or node and node.class == id then return node end
    class_nodes.set_load(id, best.name, nil)
    class_nodes.evict(id)
  end
  return nil
end

-- The decision: a node, or the reason to wait. Only damaged nodes change, as `least_loaded` says.
local function choose(job, matching)
  local choice = { last = job.avoid and keys.full(job.avoid),
    policy = policy, node = nil, rule = nil, affinity = nil, reason = nil, classes = nil,
    others = nil }
  local last_name, last_turn = affinity.get(job.name)
  if last_name ~= '' then
    local last_node = nodes.find(last_name)
    local rejection = rejection_of(last_node, job, matching)
    if rejection == '' then
      choice.affinity, choice.node = last_node.affinity, last_node
      choice.rule = last_turn == job.turn and 'turn' or 'session'
      return choice
    end
    choice.affinity = events.affinity(last_name, rejection)
  end
  choice.node = least_loaded(matching, job.avoid)
  choice.rule = choice.node and choice.node.name == job.avoid and 'last' or 'load'
  choice.reason = queue.reason(matching.is_declared)
  return choice
end

-- Write the job and append the event. Returns the id of the event.
local function start(job, node, cause, choice, deadline, context_at)
  jobs.set_running(job, node, deadline)
  affinity.set(job.name, node.name, job.turn)
  return events.JobDispatched(job, node, cause, choice, deadline, context_at)
end

local function undo_start(job, node)
  jobs.restore(job)
  nodes.release_slot({ node = node.name, epoch = node.epoch, key = job.key })
end

-- Acquire the slot, write the job, append the event, and add the assignment to the inbox of the
-- node.
local function dispatch(job, choice, cause)
  local node = choice.node
  local context, context_at = context_of(job)
  local deadline = deadline_of(job.ms)
  nodes.acquire_slot(node, job.key)
  local id = call.or_else(undo_start, start, job, node, cause, choice, deadline, context_at)
  write('XADD', node.inbox, clock.entry_id(), 't', 'assign', 'j', job.key, 'c', 'log/' .. id,
    'd', job.head .. job.rest .. ',"attempt":' .. as_text[job.attempt] .. ',"epoch":'
      .. node.epoch_text .. ',"deadline_ms":' .. deadline .. ',"context_at":"' .. context_at
      .. '"}', 'b', context)
end

-- Fill the free slots of a node: the best job of all waiting requirements of its class takes a
-- slot, for at most 8 slots. If free slots and waiting jobs are left, one `fill` entry in the
-- dispatch queue continues. So it does if the heads that this call reads all avoid the node and
-- there are more: the entry has the item after which the next call goes on. `from` is that item, or
-- nil. Returns how many jobs were dispatched.
function assign.fill(node, cause, from)
  if not nodes.has_slot(node) or not queue.has_waiting_for(node, from) then return 0 end
  local free, filled = node.slots - nodes.lease_count(node), 0
  while free > 0 and filled < assign.fills_max do
    local best, second, compared, next_from = queue.first_heads(node, from)
    if not best then
      from = next_from or from
      break
    end
    local job = jobs.find(string.sub(best.member, 18)) -- a damaged job leaves the queue
    if job and job.status == 'queued' then
      queue.take(job)
      dispatch(job, { node = node, rule = 'fill',
        classes = class_nodes.evidence_of(node.class), others = nil, policy = policy,
        compared = as_text[compared], winner = best, runner_up = second }, cause)
      queue.cancel_timers(job)
      free = free - 1
    else
      queue.drop(best)
    end
    filled = filled + 1
  end
  if free > 0 and queue.has_waiting_for(node, from) then
    dispatch_entry.append_fill(node.name, from)
  end
  return filled
end

-- Dispatch the job, or queue it. While jobs with the same requirement wait, the job is queued as
-- well, and a free node takes the best of them. `job.attempt` is the attempt to start, `job.avoid`
-- the node of the previous attempt. Until `job.avoid_until` (nil unless the job has backed off)
-- that node does not take the job while another node is able to, with a free slot or without.
-- `freed` is the node whose slot this job has just released: jobs that wait for that node are
-- compared before the job gets the slot back. Returns nil, or the reason to wait (rule 15, two
-- reasons to wait).
function assign.place(job, cause, freed)
  local requirement = queue.requirement_of(job)
  local matching = classes.matching(requirement)
  local avoided = job.avoid_until and nodes.find(job.avoid)
  if not avoided or not class_nodes.has_other(matching, avoided) then job.avoid_until = nil end
  if queue.has_waiting(requirement)
    or job.avoid_until and queue.has_waiting(queue.name_of(job)) then
    local reason = queue.reason(matching.is_declared)
    queue.add(job, reason, cause)
    local node = least_loaded(matching, job.avoid_until and job.avoid)
    if not node then return reason end
    assign.fill(node, cause)
    return nil
  end
  local choice = choose(job, matching)
  local name = choice.node and choice.node.name
  if name and not (job.avoid_until and name == job.avoid)
    and not (freed and name == freed.name and queue.has_waiting_for(freed)) then
    choice.classes, choice.others = class_nodes.evidence(matching, choice.node.class)
    dispatch(job, choice, cause)
    return nil
  end
  queue.add(job, choice.reason, cause)
  return choice.reason
end
return assign
