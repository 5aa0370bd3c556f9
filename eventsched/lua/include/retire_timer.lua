-- retire_timer: the outbox of a closed session is freed after `outbox_retention_ms`, and the
-- session is retired after `session_retention_ms` (rule 10, job identity): the event SessionRetired
-- is appended first, then the keys are deleted, 256 a call.
-- include: archive
-- include: call
-- include: clock
-- include: events
-- include: job_retention
-- include: keys
-- include: numbers
-- include: outbox
-- include: sessions
-- include: settings
-- include: timers
-- include: write
local retire_timer = {}
local keys_max = 256
local audio_wait_ms = 60000

local function targets_of(session)
  local list = {}
  for _, field in ipairs(redis.call('HKEYS', session)) do
    local target = string.match(field, '^a:(.*)$')
    if target then list[#list + 1] = target end
  end
  table.sort(list)
  return list
end

-- Delete job records, beginning at the utterance `retired_to`. Returns the utterance up to which
-- they are deleted.
local function delete_jobs(s, targets)
  local from = s.retired_to
  -- The last call deletes other keys as well.
  local jobs_max = keys_max - #targets - 8
  local utterances_max = math.max(1, math.floor(jobs_max / math.max(#targets, 1)))
  local upto = math.min(s.utterance, from + utterances_max)
  local records = job_retention.keys_of(s, targets, from, upto - 1)
  if records[1] then write('DEL', unpack(records)) end
  return upto
end

-- The session, or nil. A record that is retired may be damaged, for a repair retires a session that
-- the log does not have: what it lacks has no keys to delete.
local function session_of(name, full)
  local stored = redis.call('HMGET', keys.of('session', name), 'status', 'tenant', 'utterance',
    'retired_to', 'features_hash')
  if stored[1] ~= 'retired' then return sessions.get(name, true) end
  return { name = name, full = full, status = 'retired', tenant = stored[2] or '',
    utterance = numbers.value[stored[3] or ''] or 0,
    retired_to = numbers.value[stored[4] or ''] or 0,
    features_hash = stored[5] or '' }
end

function retire_timer.retire(full)
  local name = keys.name(full)
  local s = session_of(name, full)
  if not s or (s.status ~= 'closed' and s.status ~= 'retired') then return end
  local session = keys.of('session', name)
  -- A repair marks a session as retired that the log does not have; its outbox may be counted.
  outbox.free(name)
  if s.status ~= 'retired' then
    local retire_ms = tonumber(redis.call('HGET', session, 'retire_at')) or 0
    if clock.now() < retire_ms then return timers.set(retire_ms, 'retire', full) end
    if archive.keeps_audio() and not archive.holds_before(settings.session_retention_ms) then
      return timers.set(clock.now() + audio_wait_ms, 'retire', full)
    end
    write('HSET', session, 'status', 'retired')
    call.or_else(function() write('HSET', session, 'status', 'closed') end,
      events.SessionRetired, s, targets_of(session))
    s.status = 'retired'
  end
  local targets = targets_of(session)
  local upto = delete_jobs(s, targets)
  if upto < s.utterance then
    s.retired_to = upto
    write('HSET', session, 'retired_to', upto)
    return timers.set(clock.now(), 'retire', full)
  end
  write('SREM', keys.of('tenant_sessions', s.tenant), name)
  for _, target in ipairs(targets) do write('DEL', keys.of('out_of_order_at', name, target)) end
  write('DEL', session, keys.of('outcomes', name), keys.of('out_of_order', name),
    keys.of('playing', name), keys.of('audio', name), keys.of('outbox', name),
    keys.of('partials', name))
  sessions.forget(name)
end
return retire_timer
