-- utterance_jobs: creates the jobs of a finalized utterance, one for each target, once (rules 10,
-- job identity; 11, one atomic dispatch).
-- include: assign
-- include: delivery
-- include: dispatch_entry
-- include: jobs
-- include: keys
-- include: write
local utterance_jobs = {}

-- Whether the outcome of the target is open. The first chunk tells the utterance from that of an
-- earlier session with the same name. This call has opened the outcomes of a new utterance.
local function is_open(entry, item)
  if entry.is_new then return true end
  local first = delivery.first_chunk(entry.name, item.target, item.delivery_no)
  return first ~= nil and dispatch_entry.begins_with(entry, first)
end

-- The jobs of `entry` (as `dispatch_entry` decodes it) that have no record and whose outcome is
-- open (rules 10, job identity; 25, ordered delivery), and the number of its other targets.
function utterance_jobs.missing(entry)
  local list, obsolete = {}, 0
  -- Most utterances have one target. A target that is named twice gets one job.
  local listed = entry.targets[2] and {}
  for _, item in ipairs(entry.targets) do
    local key = entry.tenant .. ':' .. entry.session .. ':' .. entry.utterance .. ':translation:'
      .. item.target .. ':' .. entry.features_hash
    local record = keys.of('job', key)
    if is_open(entry, item) and not (listed and listed[key])
      and redis.call('EXISTS', record) == 0 then
      if listed then listed[key] = true end
      list[#list + 1] = jobs.create(key, record, entry, item.target, item.delivery_no)
    else
      obsolete = obsolete + 1
    end
  end
  return list, obsolete
end

-- Assign or queue each missing job. Returns the number of jobs, and how many wait for a slot.
function utterance_jobs.place(entry)
  local list, obsolete = utterance_jobs.missing(entry)
  if obsolete > 0 then write('HINCRBY', keys.counters, 'obsolete', obsolete) end
  local waiting = 0
  for _, job in ipairs(list) do
    if assign.place(job, 'log/' .. entry.log) == 'NO_AVAILABLE_NODE' then waiting = waiting + 1 end
  end
  return #list, waiting
end
return utterance_jobs
