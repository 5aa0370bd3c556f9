-- operator: what the calls of operators share: checks of the texts of their events, and requests.
-- A request is the id that the caller gives an act. A call with the id of an act that was done
-- returns the reply of that act and changes nothing. The hash `operator_requests` has the last
-- 1,024 requests: `time|act|reply`, where `act` is a digest of what the operator asked for.
-- include: clock
-- include: keys
-- include: validate
-- include: write
local operator = {}
local requests_max, filter_max = 1024, 500

-- The refusal of the request, the operator's reason or name; nil for none.
function operator.refusal(request, why, by)
  if not validate.is_name(request) then return validate.invalid('request', 'a name') end
  return validate.operator_refusal(why, by)
end

-- The reply of the act that was done for this request, or a refusal if that was another act; nil
-- for a new request. `act` is the text of what the operator asks for.
function operator.earlier_reply(request, act)
  local stored = redis.call('HGET', keys.operator_requests, request)
  if not stored then return nil end
  local digest, reply = string.match(stored, '^%d+|(%x+)|(.*)$')
  if digest ~= redis.sha1hex(act) then
    return validate.invalid('request', 'a new one: another act has this id')
  end
  return cjson.decode(reply)
end

-- What the operator asks for with these dead letters, as text; and a refusal, or the reply of the
-- act that was done for this request. `filter` says how the operator chose them.
function operator.act_on_letters(word, ids, filter, request, why, by)
  local refusal = operator.refusal(request, why, by)
  if refusal then return nil, refusal end
  if not validate.is_text(filter, filter_max) then
    return nil, validate.invalid('filter', 'text of at most 500 bytes')
  end
  for _, id in ipairs(ids) do
    if not string.match(id, '^%d+%-%d+$') then
      return nil, validate.invalid('id', 'the id of a dead letter')
    end
  end
  local act = word .. ' ' .. table.concat(ids, ' ')
  return act, operator.earlier_reply(request, act)
end

-- The act is done. Returns the reply.
function operator.record(request, act, reply)
  write('HSET', keys.operator_requests, request,
    clock.text() .. '|' .. redis.sha1hex(act) .. '|' .. cjson.encode(reply))
  if redis.call('HLEN', keys.operator_requests) <= requests_max then return reply end
  local stored = redis.call('HGETALL', keys.operator_requests)
  local oldest, oldest_ms
  for i = 1, #stored, 2 do
    local ms = tonumber(string.match(stored[i + 1], '^%d+'))
    if not oldest or ms < oldest_ms then oldest, oldest_ms = stored[i], ms end
  end
  write('HDEL', keys.operator_requests, oldest)
  return reply
end
return operator
