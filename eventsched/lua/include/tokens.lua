-- tokens: which epoch of a session each producer was given. The field `tokens` of a session is
-- `token:epoch,…` of the last 8 epochs, the newest last.
-- include: strings
local tokens = {}
local tokens_max = 8

-- The epoch that the token was given, or nil. A retry that comes after another producer's resume
-- gets its old epoch again: it must not take the session back.
function tokens.epoch_of(s, token)
  for _, item in ipairs(strings.split(s.tokens)) do
    local known, epoch = string.match(item, '^(.*):(%d+)$')
    if known == token then return tonumber(epoch) end
  end
  return nil
end

-- The field with one more epoch; without `s` that of a new session.
function tokens.with(s, token, epoch)
  local list = strings.split(s and s.tokens)
  if #list >= tokens_max then table.remove(list, 1) end
  list[#list + 1] = token .. ':' .. string.format('%d', epoch)
  return table.concat(list, ',')
end
return tokens
