#!lua flags=no-writes
-- read_entry_numbers: what numbers the entries of an audio or out stream, without their payload.
-- KEYS
--   log_key         es1:{cell}:log         stream
-- ARGV
--   now_arg         ms                     not used
--   kind            audio | out
--   session         name
--   after           entry id               0-0 to begin
-- Reply: [id, mark, …]   mark: `d` of an audio chunk, `i` of an out entry
-- Refusals: none
-- Events: none
-- Bound: 128 entries
-- include: keys
local entries_max = 128
local mark = kind == 'audio' and 'd' or 'i'

local marks = {}
local entries = redis.call('XRANGE', keys.of(kind, session), '(' .. after, '+', 'COUNT', entries_max)
for _, entry in ipairs(entries) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == mark then
      marks[#marks + 1] = entry[1]
      marks[#marks + 1] = fields[i + 1]
    end
  end
end
return marks
