-- dispatch_entry: a finalized utterance in the dispatch queue. An entry is one line: first the
-- words that dispatch needs, separated by spaces, which no name, language or id contains (rule 34,
-- names); then the end of the core of each job, unchanged. Numbers that dispatch does not compute
-- with stay text.
-- include: clock
-- include: json
-- include: keys
-- include: numbers
-- include: queue
-- include: write
local dispatch_entry = {}

-- A target is followed by a comma and another target, or by a space and the end of the core.
local target_pattern = '([%w-]+)/(%d+)([, ])()'
local words_pattern = ' (%d+) (%d+%-%d+) (%S+) (%S+) (%S+) (%d+) (%d+) (%d) (%S*) '
  .. target_pattern
local next_target_pattern, no_traceparent = '^' .. target_pattern, '"tp":"",'
local priorities = { ['0'] = 0, ['1'] = 1, ['2'] = 2 }
local line_patterns = {}

-- The pattern of a line about a session of this cell.
local function line_pattern()
  local pattern = line_patterns[keys.full_pattern]
  if not pattern then
    pattern = '^(' .. keys.full_pattern .. ')' .. words_pattern
    line_patterns[keys.full_pattern] = pattern
  end
  return pattern
end

-- The end of the core that all jobs of the utterance share, without the last brace.
function dispatch_entry.details(tp, tenant, turn, source, ms, priority, audio)
  return '"tp":' .. json.quote(tp) .. ',"tenant":"' .. tenant .. '","turn":' .. turn
    .. ',"source":"' .. source .. '","ms":' .. ms .. ',"priority":' .. priority .. ',' .. audio
end

local function decode_line(d)
  local session, name, utterance, log, tenant, features_hash, source, turn, ms, priority, features,
    target, delivery_no, separator, at = string.match(d, line_pattern())
  local targets = { { target = target, delivery_no = delivery_no } }
  while separator == ',' do
    target, delivery_no, separator, at = string.match(d, next_target_pattern, at)
    targets[#targets + 1] = { target = target, delivery_no = delivery_no }
  end
  if not separator or string.sub(d, -1) ~= '}' then
    error('no line of a session of this cell', 0)
  end
  local rest = string.sub(d, at, -2)
  local tp = ''
  if string.sub(rest, 1, #no_traceparent) ~= no_traceparent then
    tp = cjson.decode('{' .. rest .. '}').tp
    if type(tp) ~= 'string' then error('tp is no string', 0) end
  end
  return { session = session, name = name, utterance = utterance, log = log, tenant = tenant,
    features_hash = features_hash, source = source, turn = turn, ms = ms,
    priority = priorities[priority], features = features, targets = targets, tp = tp, rest = rest }
end

-- Returns { session, name (within the cell), utterance, turn, ms, tenant, source, features_hash,
-- log, tp, priority (a number), targets: { target, delivery_no } each, features (joined text), rest
-- }. Raises an error, before anything is written, for what is malformed.
function dispatch_entry.decode(d)
  local entry = decode_line(d)
  if not entry.name or #entry.name > 64 then error('session is no name of this cell', 0) end
  if not entry.priority then error('priority is above 2', 0) end
  if #string.match(entry.log, '^%d+') > 15 or #entry.log > 32 then
    error('log is no entry id', 0)
  end
  return entry
end

-- Whether the utterance begins with the chunk with the id `first`. The field is searched as plain
-- text: a pattern would be tried at each byte before it.
function dispatch_entry.begins_with(entry, first)
  return string.find(entry.rest, 'first":"' .. first .. '"', 1, true) ~= nil
end

-- The line that `decode` reads.
function dispatch_entry.encode(entry)
  local targets = {}
  for i, item in ipairs(entry.targets) do targets[i] = item.target .. '/' .. item.delivery_no end
  return entry.session .. ' ' .. entry.utterance .. ' ' .. entry.log .. ' ' .. entry.tenant
    .. ' ' .. entry.features_hash .. ' ' .. entry.source .. ' ' .. entry.turn .. ' '
    .. entry.ms .. ' ' .. numbers.text[entry.priority] .. ' ' .. entry.features .. ' '
    .. table.concat(targets, ',') .. ' ' .. entry.rest .. '}'
end

-- Add the utterance to the dispatch queue.
function dispatch_entry.append(entry)
  queue.count_undispatched(entry.tenant, #entry.targets)
  write('XADD', keys.dispatch, clock.entry_id(), 'k', 'utterance',
    'd', dispatch_entry.encode(entry))
end

-- Ask the dispatcher to fill the free slots of the node. `from` as in `assign.fill`; no name has a
-- space.
function dispatch_entry.append_fill(node, from)
  write('XADD', keys.dispatch, clock.entry_id(), 'k', 'fill',
    'd', from and node .. ' ' .. from or node)
end

-- The name of the node of a `fill` entry, and `from` or nil.
function dispatch_entry.decode_fill(d)
  local node, from = string.match(d, '^(%S+) (%S+)$')
  return node or d, from
end
return dispatch_entry
