-- write: the only way in which scripts change anything. `call.has_written` tells a batch whether an
-- error came before or after the first change of an item: Redis rolls nothing back.
-- include: call
return function(...)
  call.has_written = true
  return redis.call(...)
end
