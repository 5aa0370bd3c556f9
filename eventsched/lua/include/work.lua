-- work: an utterance that wants jobs, as it waits in the stream `work` for the dispatcher. Numbers
-- stay text where they are only passed on. What `told` writes is read by one pattern; the same in
-- another order, or with what that leaves out, by cjson.
-- include: keys
-- include: write
-- include: clock
-- include: text
-- include: json
local work = {}

local written = '^{"session":"([^"]+)","utterance":(%d+),"turn":(%d+),"ms":(%d+),"tenant":"([^"]+)",'
  .. '"source":"([^"]+)","features_hash":"([^"]+)","log":"([^"]+)","tp":"","targets":(%b[]),'
  .. '"priority":(%d),("audio":"[^"]+","rate":%d+,(.-)"first":"[^"]+","last":"[^"]+","count":%d+,'
  .. '"bytes":%d+,"padding_ms":%d+)}$'

local kinds = {
  session = 'string', tenant = 'string', source = 'string', features_hash = 'string',
  audio = 'string', first = 'string', last = 'string', log = 'string', tp = 'string',
  utterance = 'number', turn = 'number', rate = 'number', count = 'number', bytes = 'number',
  ms = 'number', padding_ms = 'number', priority = 'number', targets = 'table',
}

-- What is malformed must fail here, before the first write.
local function decoded(d)
  local told = cjson.decode(d)
  for field, kind in pairs(kinds) do
    if type(told[field]) ~= kind then error(field .. ' is no ' .. kind, 0) end
  end
  for _, owed in ipairs(told.targets) do owed.delivery_no = string.format('%d', owed.delivery_no) end
  told.services = table.concat(told.services or {}, ',')
  told.audio = string.format('"audio":"%s","rate":%d%s%s,"first":"%s","last":"%s","count":%d,'
    .. '"bytes":%d,"padding_ms":%d', told.audio, told.rate, json.words('services', told.services),
    json.word('key', told.key), told.first, told.last, told.count, told.bytes, told.padding_ms)
  for _, field in ipairs({ 'utterance', 'turn', 'ms' }) do
    told[field] = string.format('%d', told[field])
  end
  return told
end

-- The services, joined, in what may stand before `first`; nil when it is neither them nor a key.
local function services_in(more)
  if more == '' then return '' end
  local services, rest = string.match(more, '^"services":%[("[^%]]+")%],(.*)$')
  rest = rest or more
  if rest ~= '' and not string.match(rest, '^"key":"%x+",$') then return nil end
  return services and (string.gsub(services, '"', '')) or ''
end

-- The targets as `read` gives them, or nil when that is not all there is.
local function owed_in(targets)
  if string.gsub(targets, '%b{},?', '') ~= '[]' then return nil end
  local owed = {}
  for one in string.gmatch(targets, '%b{}') do
    local target, delivery_no = string.match(one, '^{"target":"([^"]+)","delivery_no":(%d+)[,}]')
    if not target then return nil end
    owed[#owed + 1] = { target = target, delivery_no = delivery_no }
  end
  return owed
end

-- { session, utterance, turn, ms, tenant, source, features_hash, log, tp, priority (a number),
-- targets: { target, delivery_no } each, services: joined text, audio: JSON of what only a node
-- needs to know }
function work.read(d)
  local session, utterance, turn, ms, tenant, source, features_hash, log, targets, priority, audio,
    more = string.match(d, written)
  local owed = session and owed_in(targets)
  local services = owed and services_in(more)
  if not services then return decoded(d) end
  return { session = session, utterance = utterance, turn = turn, ms = ms, tenant = tenant,
    source = source, features_hash = features_hash, log = log, tp = '', priority = tonumber(priority),
    targets = owed, services = services, audio = audio }
end

-- What `read` reads: as it gives it, with `owed`, the targets and their recipients as JSON.
function work.told(wanted)
  return '{"session":"' .. wanted.session .. '","utterance":' .. wanted.utterance .. ',"turn":'
    .. wanted.turn .. ',"ms":' .. wanted.ms .. ',"tenant":"' .. wanted.tenant .. '","source":"'
    .. wanted.source .. '","features_hash":"' .. wanted.features_hash .. '","log":"' .. wanted.log
    .. '","tp":' .. json.text(wanted.tp) .. ',"targets":' .. wanted.owed .. ',"priority":'
    .. text.of(wanted.priority) .. ',' .. wanted.audio .. '}'
end

function work.put(wanted)
  write('XADD', keys.work, clock.entry_id(), 'k', 'utterance', 'd', work.told(wanted))
end
