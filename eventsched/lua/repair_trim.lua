#!lua flags=allow-oom
-- repair_trim: record entries that are gone from the log without an event. They are lost.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   why             text, 1 to 500 B       of the event, as the next
--   by              text, 1 to 200 B
-- Reply: the number of entries that the event records as lost
-- Refusals: INVALID_MESSAGE
-- Events: CellRepaired, StreamTrimmed
-- Bound: constant
-- include: events
-- include: keys
-- include: log_trim
-- include: repair
local refusal = repair.refusal(why, by)
if refusal then return refusal end
if redis.call('EXISTS', keys.log) == 0 then return 0 end
local lost = log_trim.count() - log_trim.total()
if lost == 0 then return 0 end
local count = string.format('%d', lost)
events.CellRepaired({ session = '', job = '', node = '', where = 'log', what = 'record a trim',
  gives_up = count .. ' entries of the log', accepts = '', why = why, by = by })
local first = redis.call('XRANGE', keys.log, '-', '+', 'COUNT', 1)[1]
log_trim.record(first[1], lost)
return lost
