-- utterance_jobs: a finalized utterance (include/work) becomes the jobs that it owes, once each (rules 10, 11).
-- include: assign
-- include: delivery
-- include: jobs
-- include: keys
-- include: write
local utterance_jobs = {}

-- The jobs that it still owes and nobody has created yet (rules 10, 25), and how many it no longer
-- does. What is new has its outcomes open: they were opened in this call.
function utterance_jobs.missing(wanted)
  local list, obsolete = {}, 0
  -- A target that is named twice is one job; most utterances have a single one.
  local listed = wanted.targets[2] and {}
  for _, owed in ipairs(wanted.targets) do
    local key = wanted.tenant .. ':' .. wanted.session .. ':' .. wanted.utterance .. ':translation:'
      .. owed.target .. ':' .. wanted.features_hash
    local record = keys.of('job', key)
    local open = wanted.is_new or delivery.is_open(wanted.name, owed.target, owed.delivery_no)
    if open and not (listed and listed[key]) and redis.call('EXISTS', record) == 0 then
      if listed then listed[key] = true end
      list[#list + 1] = jobs.create(key, record, wanted, owed.target, owed.delivery_no)
    else
      obsolete = obsolete + 1
    end
  end
  return list, obsolete
end

-- Each is given to a node, or waits. Returns how many they are, and how many wait for a slot.
function utterance_jobs.place(wanted)
  local list, obsolete = utterance_jobs.missing(wanted)
  if obsolete > 0 then write('HINCRBY', keys.counters, 'obsolete', obsolete) end
  local waiting = 0
  for _, job in ipairs(list) do
    if assign.place(job, 'log/' .. wanted.log) == 'NO_AVAILABLE_NODE' then waiting = waiting + 1 end
  end
  return #list, waiting
end
return utterance_jobs
