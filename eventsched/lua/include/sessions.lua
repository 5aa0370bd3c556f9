-- sessions: the write state of a session (rules 1 to 8, session and utterance; 12, audience).
-- Changes of the open utterance are stored once, at commit.
-- include: affinity
-- include: cache
-- include: call
-- include: clock
-- include: damage
-- include: delivery
-- include: keys
-- include: numbers
-- include: write
-- `by_name`: the sessions that this call has loaded; false for a session that does not exist.
local sessions = { by_name = {} }

call.on_reset(function() sessions.by_name = {} end)

local as_text, as_number = numbers.text, numbers.value
local none = {}

-- The field `buffer`: the number of the next chunk and the time of the last sign of the producer;
-- then, of the open utterance, its chunks, bytes, ms, first chunk number, time of the last chunk,
-- and ids of the first and the last chunk. It is one field, because a hash is searched for each
-- field at every chunk.
local buffer_pattern = '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|(.*)$'
local fields = { 'status', 'epoch', 'utterance', 'buffer', 'tenant', 'tp', 'outcomes' }
-- Fields that only finalizing and opening need are read together on first access. The rare fields
-- are read one by one.
local late_fields = { 'turn', 'source', 'targets', 'features', 'features_hash', 'encoding',
  'sample_rate', 'priority', 'room', 'key', 'retired_to' }
local rare_fields = { tokens = true, secret_sha1 = true, archived = true }
local all_fields, is_late = { unpack(fields) }, {}
for _, field in ipairs(late_fields) do
  is_late[field] = true
  all_fields[#all_fields + 1] = field
end

-- A record without one of these fields is damaged.
local function set_late_fields(s, stored, at)
  for i, field in ipairs(late_fields) do
    if not stored[at + i - 1] and field ~= 'retired_to' then
      damage.raise('session:' .. s.name, field)
    end
  end
  s.turn = as_number[stored[at]]
  s.source, s.targets, s.features = stored[at + 1], stored[at + 2], stored[at + 3]
  s.features_hash, s.encoding, s.sample_rate = stored[at + 4], stored[at + 5], stored[at + 6]
  s.priority, s.room, s.key = as_number[stored[at + 7]], stored[at + 8], stored[at + 9]
  s.retired_to = as_number[stored[at + 10] or '0']
  if not rawget(s, 'turn') then damage.raise('session:' .. s.name, 'turn') end
  if not rawget(s, 'priority') then damage.raise('session:' .. s.name, 'priority') end
  if not rawget(s, 'retired_to') then damage.raise('session:' .. s.name, 'retired_to') end
  if s.room ~= '' and not keys.room(s.room) then damage.raise('session:' .. s.name, 'room') end
end

local function read_late_fields(name)
  return redis.call('HMGET', keys.of('session', name), unpack(late_fields))
end

local lazy = { __index = function(s, field)
  if is_late[field] then
    set_late_fields(s, read_late_fields(s.name), 1)
  elseif rare_fields[field] then
    s[field] = redis.call('HGET', keys.of('session', s.name), field) or ''
  end
  return rawget(s, field)
end }

local function load(name, with_late_fields)
  local stored = redis.call('HMGET', keys.of('session', name),
    unpack(with_late_fields and all_fields or fields))
  if not stored[1] then return nil end
  for i, field in ipairs(fields) do
    if not stored[i] and field ~= 'outcomes' then damage.raise('session:' .. name, field) end
  end
  local next_seq, seen_at, count, bytes, ms, seq, at, first, last =
    string.match(stored[4], buffer_pattern)
  if not next_seq then damage.raise('session:' .. name, 'buffer') end
  local s = {
    name = name, full = keys.full(name), status = stored[1], epoch = as_number[stored[2]],
    utterance = as_number[stored[3]], tenant = stored[5], tp = stored[6],
    next_seq = as_number[next_seq], seen_at = tonumber(seen_at), buf_count = as_number[count],
    buf_bytes = as_number[bytes], buf_ms = as_number[ms], buf_seq = as_number[seq],
    buf_at = tonumber(at), buf_first = first, buf_last = last, is_dirty = false,
    has_new_utterance = false, numbers = nil, new_numbers = nil, ordered_targets = nil,
    turn = nil, source = nil, targets = nil, features = nil,
    features_hash = nil, encoding = nil, sample_rate = nil, priority = nil, room = nil, key = nil,
    retired_to = nil,
  }
  if not s.epoch then damage.raise('session:' .. name, 'epoch') end
  if not s.utterance then damage.raise('session:' .. name, 'utterance') end
  delivery.put_record(name, stored[7])
  if with_late_fields then set_late_fields(s, stored, #fields + 1) end
  return setmetatable(s, lazy)
end

local cached = cache.register('sessions', 'live', load)

-- A session by its name, or nil. A damaged record raises STATE_DAMAGED. A caller that may finalize
-- sets `with_late_fields`: these fields are checked before its first write, and read at once.
function sessions.get(name, with_late_fields)
  local s = sessions.by_name[name]
  if s == nil then
    s = cached.peek(name)
    if not s then
      s = load(name, with_late_fields)
      if s then cached.put(name, s) end
    end
    sessions.by_name[name] = s or false
  end
  if s and with_late_fields and not rawget(s, 'source') then
    set_late_fields(s, read_late_fields(name), 1)
  end
  return s or nil
end

-- As `get`; nil also for a damaged record.
function sessions.find(name)
  return damage.value_or_nil(sessions.get, name)
end

-- Remove the session from the cache: it has closed, and few calls need it.
function sessions.evict(name)
  cached.evict(name)
  affinity.evict(name)
  delivery.evict(name)
end

-- The session has retired: it no longer exists.
function sessions.forget(name)
  sessions.by_name[name] = false
  sessions.evict(name)
end

local function time_text(value)
  return value == clock.at and clock.at_text or as_text[value]
end

-- The field `buffer`; without `s` that of a new session.
function sessions.encode_buffer(s)
  if not s then return '0|' .. clock.text() .. '|0|0|0|0|0||' end
  return as_text[s.next_seq] .. '|' .. time_text(s.seen_at) .. '|' .. as_text[s.buf_count] .. '|'
    .. as_text[s.buf_bytes] .. '|' .. as_text[s.buf_ms] .. '|' .. as_text[s.buf_seq] .. '|'
    .. time_text(s.buf_at) .. '|' .. s.buf_first .. '|' .. s.buf_last
end

-- The producer has just sent something.
function sessions.touch(s)
  s.seen_at, s.is_dirty = clock.now(), true
end

-- The delivery number that the next utterance gets for the target; stored as `a:<target>`. A target
-- of which numbers were delivered has it.
function sessions.next_number(s, target)
  if not s.numbers then s.numbers, s.new_numbers = {}, {} end
  local number = s.numbers[target]
  if not number then
    local stored = redis.call('HMGET', keys.of('session', s.name), 'a:' .. target, 'd:' .. target)
    number = as_number[stored[1] or stored[2] or '0']
    if not number or stored[2] and not stored[1] then
      damage.raise('session:' .. s.name, 'a:' .. target)
    end
    s.numbers[target] = number
  end
  return number
end

-- An utterance has taken the number.
function sessions.allocate_number(s, target)
  local number = s.numbers[target] + 1
  s.numbers[target] = number
  local new_numbers = s.new_numbers
  new_numbers[#new_numbers + 1] = 'a:' .. target
  new_numbers[#new_numbers + 1] = as_text[number]
end

-- Store the open utterance and the counters of each changed session.
call.on_commit(function()
  for name, s in pairs(sessions.by_name) do
    if s and s.is_dirty then
      local key = keys.of('session', name)
      if s.has_new_utterance then
        write('HSET', key, 'utterance', as_text[s.utterance], 'turn', as_text[s.turn],
          'buffer', sessions.encode_buffer(s), 'outcomes', delivery.record(name),
          unpack(s.new_numbers or none))
      else
        write('HSET', key, 'buffer', sessions.encode_buffer(s))
      end
      if s.new_numbers and s.has_new_utterance then s.new_numbers = {} end
      s.is_dirty, s.has_new_utterance = false, false
    end
    sessions.by_name[name] = nil
  end
end)

-- Why a producer with this epoch may not act on the session now, or nil.
function sessions.refusal(s, epoch)
  if not s then return 'SESSION_UNKNOWN' end
  if epoch < s.epoch then return 'SESSION_SUPERSEDED epoch=' .. string.format('%d', s.epoch) end
  if epoch > s.epoch then
    return 'INVALID_MESSAGE field=epoch limit=no such epoch of the session'
  end
  if s.status ~= 'open' then return 'SESSION_CLOSED' end
  return nil
end
return sessions
