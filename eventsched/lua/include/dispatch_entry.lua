-- dispatch_entry: an utterance that wants jobs, as it waits in the stream `work` for the dispatcher: a line
-- of what dispatch decides by, parted by spaces, which no name, language or id holds (rule 34),
-- then the end of each job's `core` as it is. Numbers stay text where they are only passed on.
-- include: clock
-- include: json
-- include: keys
-- include: numbers
-- include: write
local dispatch_entry = {}

-- Behind a target comes another, after a comma, or what is only passed on.
local owed_one = '([%w-]+)/(%d+)([, ])()'
local line = ' (%d+) (%S+) (%S+) (%S+) (%S+) (%d+) (%d+) (%d) (%S*) ' .. owed_one
local another, untraced = '^' .. owed_one, '"tp":"",'
local priorities = { ['0'] = 0, ['1'] = 1, ['2'] = 2 }
local lines = {}

-- The line of a session of this cell.
local function line_here()
  local here = lines[keys.own]
  if not here then
    here = '^(' .. keys.own .. ')' .. line
    lines[keys.own] = here
  end
  return here
end

-- What is the same in the core of each of its jobs; the last brace is missing.
function dispatch_entry.details(tp, tenant, turn, source, ms, priority, audio)
  return '"tp":' .. json.quote(tp) .. ',"tenant":"' .. tenant .. '","turn":' .. turn .. ',"source":"'
    .. source .. '","ms":' .. ms .. ',"priority":' .. priority .. ',' .. audio
end

local function split(d)
  local session, name, utterance, log, tenant, features_hash, source, turn, ms, priority, features,
    target, delivery_no, behind, at = string.match(d, line_here())
  local owed = { { target = target, delivery_no = delivery_no } }
  while behind == ',' do
    target, delivery_no, behind, at = string.match(d, another, at)
    owed[#owed + 1] = { target = target, delivery_no = delivery_no }
  end
  if not behind or string.sub(d, -1) ~= '}' then
    error('no line of a session of this cell', 0)
  end
  local rest = string.sub(d, at, -2)
  local tp = string.sub(rest, 1, #untraced) == untraced and '' or cjson.decode('{' .. rest .. '}').tp
  return { session = session, name = name, utterance = utterance, log = log, tenant = tenant,
    features_hash = features_hash, source = source, turn = turn, ms = ms,
    priority = priorities[priority], features = features, targets = owed, tp = tp, rest = rest }
end

-- { session, name (in the cell), utterance, turn, ms, tenant, source, features_hash, log, tp,
-- priority (a number), targets: { target, delivery_no } each, features: joined text, rest }.
-- What is malformed must fail here, before the first write.
function dispatch_entry.decode(d)
  local wanted = split(d)
  if not wanted.name or #wanted.name > 64 then error('session is no name of this cell', 0) end
  if not wanted.priority then error('priority is above 2', 0) end
  if type(wanted.tp) ~= 'string' then error('tp is no string', 0) end
  return wanted
end

-- What `read` reads: as it gives it.
function dispatch_entry.encode(wanted)
  local owed = {}
  for i, one in ipairs(wanted.targets) do owed[i] = one.target .. '/' .. one.delivery_no end
  return wanted.session .. ' ' .. wanted.utterance .. ' ' .. wanted.log .. ' ' .. wanted.tenant
    .. ' ' .. wanted.features_hash .. ' ' .. wanted.source .. ' ' .. wanted.turn .. ' '
    .. wanted.ms .. ' ' .. numbers.text[wanted.priority] .. ' ' .. wanted.features .. ' '
    .. table.concat(owed, ',') .. ' ' .. wanted.rest .. '}'
end

function dispatch_entry.append(wanted)
  write('XADD', keys.dispatch, clock.entry_id(), 'k', 'utterance', 'd', dispatch_entry.encode(wanted))
end
return dispatch_entry
