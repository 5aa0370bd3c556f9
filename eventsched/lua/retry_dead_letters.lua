#!lua flags=allow-oom
-- retry_dead_letters: process dead letters again, each as a new entry in the dispatch queue or as
-- a timer that is due at once. An event that a read model could not fold has been processed again
-- if the read model was rebuilt since.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   request         name                   of the act: repeated, it returns the reply of the act
--   filter          text, at most 500 B    how the operator chose the dead letters; or empty
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
--   force           0 | 1                  1: even if the failed attempt had written (`partial`)
--   then per letter, at most 16: dead_id
-- Reply: per dead letter `word retry_count skip_count`, the numbers counting targets (1 for a fill,
--   a timer or an event). Only the first two words change anything: they delete the dead letter
--   retried       the entry is processed again, or the read model was rebuilt
--   passed_over   every target has a job or an ended outcome
--   partial       the failed attempt had written: retried only with force
--   projection    the read model was not rebuilt since the failure
--   unreadable    no entry of the dispatch queue, or of another release
--   unknown       no such dead letter
-- Refusals: INVALID_MESSAGE
-- Events: DeadLettersRetried (the later processing appends its own)
-- Bound: the dead letters given, at most 16; 32 targets of each; the open outcomes of its session;
--   1,025 requests
-- include: clock
-- include: dispatch_entry
-- include: events
-- include: keys
-- include: operator
-- include: reply
-- include: timers
-- include: utterance_jobs
-- include: validate
-- include: write
local function number_of(revision)
  return tonumber(string.match(revision, '%.(%d+)$'))
end

-- Whether each read model that could not fold the event has a later revision than it had then. The
-- numbers of revisions only increase.
local function is_rebuilt(dead)
  local is_readable, context = pcall(cjson.decode, dead.d)
  if not is_readable or type(context) ~= 'table' or type(context.revisions) ~= 'table'
    or not next(context.revisions) then return false end
  for projection, revision in pairs(context.revisions) do
    if type(revision) ~= 'string' or not validate.is_name(projection) then return false end
    local live = redis.call('GET', keys.of('active_revision', projection)) or ''
    if (number_of(live) or 0) <= (number_of(revision) or 0) then return false end
  end
  return true
end

-- What to do with the dead letter: the word of the reply, two numbers, and a function that does it.
local function decide(id, force)
  local stored = redis.call('XRANGE', keys.dead_letters, id, id)[1]
  if not stored then return 'unknown', 0, 0 end
  local dead = reply.by_name(stored[2])
  if dead.from ~= 'dispatch' and dead.from ~= 'timers' then
    if is_rebuilt(dead) then return 'retried', 1, 0, function() end end
    return 'projection', 0, 0
  end
  if dead.partial == '1' and force ~= '1' then return 'partial', 0, 0 end
  if dead.from == 'timers' then
    local kind, timer_id = string.match(dead.id, '^(%a+)|(.*)$')
    return 'retried', 1, 0, function() timers.set(clock.now(), kind, timer_id) end
  end
  if dead.k == 'fill' then
    return 'retried', 1, 0, function() dispatch_entry.append_fill(dead.d) end
  end
  local is_readable, entry = pcall(dispatch_entry.decode, dead.d)
  if not is_readable then return 'unreadable', 0, 0 end
  local skip_count
  entry.targets, skip_count = utterance_jobs.missing(entry)
  if #entry.targets == 0 then return 'passed_over', 0, skip_count, function() end end
  return 'retried', #entry.targets, skip_count, function() dispatch_entry.append(entry) end
end

-- In each call:
local letters = {}
for i, letter in each_letter(ARGV) do letters[i] = letter.dead_id end
local act, answer = operator.act_on_letters('retry' .. force, letters, filter, request, why, by)
if answer then return answer end

local lines, steps, is_given = {}, {}, {}
for _, id in ipairs(letters) do
  local word, retry_count, skip_count, step = 'unknown', 0, 0, nil
  if not is_given[id] then word, retry_count, skip_count, step = decide(id, force) end
  is_given[id] = true
  lines[#lines + 1] = string.format('%s %d %d', word, retry_count, skip_count)
  if step then steps[#steps + 1] = { id = id, run = step } end
end
if #steps == 0 then return lines end
-- Each step deletes its dead letter, so a repeated call does the steps that a failed call has left.
events.DeadLettersRetried({ first = steps[1].id, last = steps[#steps].id, count = #steps,
  filter = filter }, { why = why, by = by })
for _, step in ipairs(steps) do
  step.run()
  write('XDEL', keys.dead_letters, step.id)
end
return operator.record(request, act, lines)
