-- damage: stored state that a function cannot use, because another program has written it: a record
-- without a field, or with another value. A function refuses the call, or the item of a batch, with
-- STATE_DAMAGED before its first write: `raise` raises the error, which the entry function turns
-- into the reply. For a record that a call reads after its first write, the module of the record
-- has a fallback. `verify` reports both, and `repair` mends them.
-- include: call
local damage = {}
local code = 'STATE_DAMAGED '

-- The record, named by its kind and its id, has no such field, or another value in it.
function damage.raise(record, field)
  error(code .. 'record=' .. record .. ' field=' .. field, 0)
end

-- Whether an error is that of `raise`.
function damage.is_reason(failure)
  return type(failure) == 'string' and string.sub(failure, 1, #code) == code
end

-- The result of `read(id)`, which writes nothing; nil if it raises STATE_DAMAGED.
function damage.value_or_nil(read, id)
  local is_done, result = pcall(read, id)
  if is_done then return result end
  if damage.is_reason(result) then return nil end
  error(result, 0)
end

-- The result of `take(...)`, which processes an item of a batch; nil and the refusal if it raises
-- STATE_DAMAGED before its first write.
function damage.guard(take, ...)
  call.has_written = false
  local is_done, result = pcall(take, ...)
  if is_done then return result, nil end
  if damage.is_reason(result) and not call.has_written then return nil, result end
  error(result, 0)
end
return damage
