#!lua flags=no-writes
-- read_entry_numbers: the numbers of the entries of an audio stream or an outbox, without payload.
-- The number of a result is followed by the id of the log entry that the result delivers.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     not used
--   kind            audio | outbox
--   session         name
--   after           entry id               0-0 to begin
-- Reply: [id, number, …]   number: field `d` of an audio chunk, field `i` of an outbox entry; after
--   a space the id of the log entry of a result
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: 128 entries
-- include: keys
-- include: reply
local entries_max = 128

local function number_of(fields)
  if kind == 'audio' then return fields.d end
  local delivered = fields.t == 'result' and string.match(fields.d, '"log":"([%d-]+)"}$')
  return fields.i and fields.i .. (delivered and ' ' .. delivered or '')
end

local numbered = {}
local stream = keys.of(kind, session)
local entries = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', entries_max)
for _, entry in ipairs(entries) do
  local number = number_of(reply.by_name(entry[2]))
  if number then
    numbered[#numbered + 1] = entry[1]
    numbered[#numbered + 1] = number
  end
end
return numbered
