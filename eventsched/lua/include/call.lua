-- call: the life of one call. Modules stay on the server from call to call: a module says once how
-- each call begins for it (`on_begin`), so that no call meets what another one left there.
local call = { now_arg = '', has_written = false }
local begins, fails = {}, {}

function call.on_begin(start)
  begins[#begins + 1] = start
end

-- Redis rolls nothing back: what a module has deferred is written although the call failed.
function call.on_error(finish)
  fails[#fails + 1] = finish
end

function call.fail()
  for i = 1, #fails do fails[i]() end
end

-- `keys_given` names the key of the log, the first of `args` is the time of a manual clock. The
-- modules begin in the order in which they were loaded.
function call.begin(keys_given, args)
  call.log_key, call.now_arg, call.has_written = keys_given[1], args[1] or '', false
  for i = 1, #begins do begins[i]() end
end
return call
