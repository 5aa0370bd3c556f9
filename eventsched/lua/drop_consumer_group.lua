#!lua flags=allow-oom
-- drop_consumer_group: an operator deletes a consumer group of another program from the log. Its
-- position and its unacknowledged entries are gone, and trimming waits for it no more.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
--   group           text                   name of the consumer group, 1 to 255 B
--   request         name                   of the act: repeated, it returns the reply of the act
--   why             text, 1 to 500 B
--   by              text, 1 to 200 B
-- Reply: dropped, or absent when there is no such group
-- Refusals: INVALID_MESSAGE
-- Events: ConsumerGroupDropped
-- Bound: the groups of the log; the unacknowledged entries of the group, which the server frees;
--   1,025 requests
-- include: call
-- include: events
-- include: groups
-- include: keys
-- include: operator
-- include: validate
-- include: write
if group == '' or not validate.is_text(group, 255) then
  return validate.invalid('group', 'text of 1 to 255 bytes')
end
local refusal = operator.refusal(request, why, by)
if refusal then return refusal end
if groups.is_of_system(group) then
  return validate.invalid('group', 'a consumer group of another program')
end
local act = 'drop ' .. group
local earlier = operator.earlier_reply(request, act)
if earlier then return earlier end
local dropped = groups.find(keys.log, group)
if not dropped then return 'absent' end

-- The event comes first: no change is without one.
events.ConsumerGroupDropped(group, dropped['last-delivered-id'], dropped.pending, why, by)
local function destroy()
  write('XGROUP', 'DESTROY', keys.log, group)
end
call.or_else(destroy, destroy)
return operator.record(request, act, 'dropped')
