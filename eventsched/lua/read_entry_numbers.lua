#!lua flags=no-writes
-- read_entry_numbers: the numbers of the entries of an audio stream or an outbox, without payload.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   kind            audio | outbox
--   session         name
--   after           entry id               0-0 to begin
-- Reply: [id, number, …]   number: field `d` of an audio chunk, field `i` of an outbox entry
-- Refusals: none
-- Events: none
-- Bound: 128 entries
-- include: keys
local entries_max = 128
local number_field = kind == 'audio' and 'd' or 'i'

local numbered = {}
local stream = keys.of(kind, session)
local entries = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', entries_max)
for _, entry in ipairs(entries) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == number_field then
      numbered[#numbered + 1] = entry[1]
      numbered[#numbered + 1] = fields[i + 1]
    end
  end
end
return numbered
