-- session_audio: trims the audio stream of a session.
-- include: archive
-- include: clock
-- include: delivery
-- include: entry_ids
-- include: json
-- include: keys
-- include: write
local session_audio = {}

-- Keep the chunks since the oldest utterance that is open or has an open outcome. If the archive
-- stores audio, keep the chunks that it does not hold yet as well. Bound: the open outcomes of the
-- session.
function session_audio.trim(s)
  local oldest, first
  for _, stored in pairs(delivery.open_outcomes(s.name)) do
    local utterance, id = string.match(stored, '^(%d+)|([^|]*)|')
    if not oldest or tonumber(utterance) < oldest then oldest, first = tonumber(utterance), id end
  end
  if not first then
    first = s.buf_first ~= '' and s.buf_first or string.format('%d-0', clock.now() + 1)
  end
  if archive.keeps_audio() then
    local not_archived = json.optional(s.archived) and entry_ids.successor(s.archived) or '0-0'
    if entry_ids.precedes(not_archived, first) then first = not_archived end
  end
  write('XTRIM', keys.of('audio', s.name), 'MINID', first)
end
return session_audio
