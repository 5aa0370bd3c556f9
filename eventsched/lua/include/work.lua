-- work: an utterance that wants jobs, as it waits in the stream `work` for the dispatcher: a line
-- of what dispatch decides by, parted by spaces, which no name, language or id holds (rule 34),
-- then the end of each job's `core` as it is. Numbers stay text where they are only passed on. The
-- JSON of earlier releases is read by cjson.
-- include: keys
-- include: write
-- include: clock
-- include: text
-- include: json
local work = {}

local line = '^(%S+) (%d+) (%S+) (%S+) (%S+) (%S+) (%d+) (%d+) (%d) (%S*) (%S+) ()"tp":"(.)'
local closing = string.byte('}')
local priorities = { ['0'] = 0, ['1'] = 1, ['2'] = 2 }

-- What is the same in the core of each of its jobs.
function work.rest(tp, tenant, turn, source, ms, priority, audio)
  return '"tp":' .. json.text(tp) .. ',"tenant":"' .. tenant .. '","turn":' .. turn .. ',"source":"'
    .. source .. '","ms":' .. ms .. ',"priority":' .. priority .. ',' .. audio .. '}'
end

local kinds = {
  session = 'string', tenant = 'string', source = 'string', features_hash = 'string',
  audio = 'string', first = 'string', last = 'string', log = 'string', tp = 'string',
  utterance = 'number', turn = 'number', rate = 'number', count = 'number', bytes = 'number',
  ms = 'number', padding_ms = 'number', priority = 'number', targets = 'table',
}

local function decoded(d)
  local told = cjson.decode(d)
  for field, kind in pairs(kinds) do
    if type(told[field]) ~= kind then error(field .. ' is no ' .. kind, 0) end
  end
  for _, owed in ipairs(told.targets) do
    owed.delivery_no = string.format('%d', owed.delivery_no)
  end
  told.services = table.concat(told.services or {}, ',')
  for _, field in ipairs({ 'utterance', 'turn', 'ms' }) do
    told[field] = string.format('%d', told[field])
  end
  local audio = string.format('"audio":"%s","rate":%d%s%s,"first":"%s","last":"%s","count":%d,'
    .. '"bytes":%d,"padding_ms":%d', told.audio, told.rate, json.words('services', told.services),
    json.word('key', told.key), told.first, told.last, told.count, told.bytes, told.padding_ms)
  told.rest = work.rest(told.tp, told.tenant, told.turn, told.source, told.ms,
    text.of(told.priority), audio)
  return told
end

local function owed_in(targets)
  local owed, at = {}, 1
  repeat
    local target, delivery_no, next_at = string.match(targets, '^([^/,]+)/(%d+),?()', at)
    if not target then error('targets are no <target>/<delivery_no>', 0) end
    owed[#owed + 1], at = { target = target, delivery_no = delivery_no }, next_at
  until at > #targets
  return owed
end

local function parted(d)
  local session, utterance, log, tenant, features_hash, source, turn, ms, priority, services,
    targets, at, tp = string.match(d, line)
  if not session or string.byte(d, -1) ~= closing then
    error('neither a line of work nor JSON', 0)
  end
  local rest = string.sub(d, at)
  return { session = session, utterance = utterance, log = log, tenant = tenant,
    features_hash = features_hash, source = source, turn = turn, ms = ms,
    priority = priorities[priority] or error('priority is above 2', 0), services = services,
    targets = owed_in(targets), tp = tp == '"' and '' or cjson.decode('{' .. rest).tp, rest = rest }
end

-- { session, name (in the cell), utterance, turn, ms, tenant, source, features_hash, log, tp,
-- priority (a number), targets: { target, delivery_no } each, services: joined text, rest }.
-- What is malformed must fail here, before the first write.
function work.read(d)
  local wanted = string.sub(d, 1, 1) == '{' and decoded(d) or parted(d)
  wanted.name = keys.name(wanted.session) or error('session is of no name of this cell', 0)
  return wanted
end

-- What `read` reads: as it gives it.
function work.told(wanted)
  local owed = {}
  for i, one in ipairs(wanted.targets) do owed[i] = one.target .. '/' .. one.delivery_no end
  return wanted.session .. ' ' .. wanted.utterance .. ' ' .. wanted.log .. ' ' .. wanted.tenant
    .. ' ' .. wanted.features_hash .. ' ' .. wanted.source .. ' ' .. wanted.turn .. ' '
    .. wanted.ms .. ' ' .. text.of(wanted.priority) .. ' ' .. wanted.services .. ' '
    .. table.concat(owed, ',') .. ' ' .. wanted.rest
end

function work.put(wanted)
  write('XADD', keys.work, clock.entry_id(), 'k', 'utterance', 'd', work.told(wanted))
end
