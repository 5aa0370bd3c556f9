-- write: the only function through which scripts change data. `call.has_written` tells a batch
-- whether an item failed before or after its first write, because Redis rolls nothing back.
-- include: call
return function(...)
  call.has_written = true
  return redis.call(...)
end
