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
-- stores audio, keep the chunks that it does not hold yet as well.
function session_audio.trim(s)
  local first = delivery.oldest_chunk(s.name)
  if first == '' then
    first = s.buf_first ~= '' and s.buf_first or string.format('%d-0', clock.now() + 1)
  end
  if archive.keeps_audio() then
    local not_archived = json.optional(s.archived) and entry_ids.successor(s.archived) or '0-0'
    if entry_ids.precedes(not_archived, first) then first = not_archived end
  end
  write('XTRIM', keys.of('audio', s.name), 'MINID', first)
end
return session_audio
