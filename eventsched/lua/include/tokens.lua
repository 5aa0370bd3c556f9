-- tokens: the epoch of a session by request token. The field `tokens` of a session is
-- `token:epoch,…` of the last 8 epochs, the newest last.
-- include: strings
local tokens = {}
local tokens_max = 8

-- The epoch of the token, or nil. A retry that arrives after another producer has resumed the
-- session gets its old epoch again: it must not take the session over.
function tokens.epoch_of(s, token)
  for _, item in ipairs(strings.split(s.tokens)) do
    local item_token, epoch = string.match(item, '^(.*):(%d+)$')
    if item_token == token then return tonumber(epoch) end
  end
  return nil
end

-- The field with another epoch; without `s` the field of a new session.
function tokens.with(s, token, epoch)
  local list = strings.split(s and s.tokens)
  if #list >= tokens_max then table.remove(list, 1) end
  list[#list + 1] = token .. ':' .. string.format('%d', epoch)
  return table.concat(list, ',')
end
return tokens
