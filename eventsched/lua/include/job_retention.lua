-- job_retention: deletes the records of jobs that have ended (rule 10, job identity). An open
-- session keeps those of its newest 16 utterances and of every utterance since the oldest one with
-- an open outcome. No call needs an older record: a dispatch entry creates a job only while its
-- outcome is open, and a late report is refused with JOB_UNKNOWN.
-- include: delivery
-- include: events
-- include: keys
-- include: numbers
-- include: write
local job_retention = {}
local as_text = numbers.text
local retained_utterances, utterances_max, jobs_max = 16, 16, 128

-- The keys of the records of the utterances `first` to `last`, utterance by utterance.
function job_retention.keys_of(s, targets, first, last)
  local list = {}
  for utterance = first, last do
    local before = s.tenant .. ':' .. s.full .. ':' .. as_text[utterance] .. ':translation:'
    for _, target in ipairs(targets) do
      list[#list + 1] = keys.of('job', before .. target .. ':' .. s.features_hash)
    end
  end
  return list
end

-- How many of these records come before the first one whose job has not ended.
local function count_ended(records)
  for i, record in ipairs(records) do
    local stored = redis.call('GET', record)
    if stored and string.sub(stored, 1, 6) ~= 'ended|' then return i - 1 end
  end
  return #records
end

-- An utterance of the session has been finalized: delete the records of older ones, 16 utterances
-- or 128 records at once, in the order of the utterances. Utterances without a target count as
-- well, so that the end of the session names few utterances, whatever targets it has by then. The
-- field `retired_to` of the session is written last: after a failed write the next finalize appends
-- the event again.
function job_retention.retire(s)
  local before = s.utterance - retained_utterances
  local oldest = delivery.oldest_utterance(s.name)
  if oldest and oldest < before then before = oldest end
  if before <= s.retired_to then return end
  local count = delivery.target_count(s.name)
  local step = math.max(1, math.min(utterances_max, math.floor(jobs_max / math.max(count, 1))))
  if before < s.retired_to + step then return end
  local targets, first = delivery.targets(s.name), s.retired_to
  local records = job_retention.keys_of(s, targets, first, first + step - 1)
  local retired = count == 0 and step or math.floor(count_ended(records) / count)
  if retired == 0 then return end
  events.JobsRetired(s, targets, first, first + retired - 1)
  if count > 0 then write('DEL', unpack(records, 1, retired * count)) end
  s.retired_to = first + retired
  write('HSET', keys.of('session', s.name), 'retired_to', as_text[s.retired_to])
end
return job_retention
