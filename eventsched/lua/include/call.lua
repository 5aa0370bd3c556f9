-- call: includes stay on the server from call to call; this makes each call begin with nothing of
-- the one before. An include says once what it knows of a call only, and how that starts.
local log_key, now_arg
local call = { starts = {}, ends = {} }
function call.starts_with(start)
  call.starts[#call.starts + 1] = start
end
-- What an include has put off is written when the call fails, too: nothing is rolled back.
function call.fails_with(finish)
  call.ends[#call.ends + 1] = finish
end
function call.fail()
  for _, finish in ipairs(call.ends) do finish() end
end
-- The caller's key and time, then every include's start, in the order in which they were loaded.
function call.begin(given, args)
  log_key, now_arg = given[1], args[1] or ''
  for _, start in ipairs(call.starts) do start() end
end
