-- call: the life of one call, as a unit of work. Modules stay on the server from call to call. Each
-- registers once, when it is loaded,
--   on_begin   how a call begins for it, so that no call meets what another one left there;
--   on_commit  how it writes what it deferred. The module that was loaded last commits first, before
--              those that it uses. Handlers run when the script has returned, and also when it failed:
--              Redis rolls nothing back, so what the call has done until then has to be complete;
--   on_error   what else is due when a call has failed.
-- The entry function (eventsched/store/library.py) runs them: no script can forget to.
local call = { log_key = '', now_arg = '', has_written = false, commits_left = 0 }
local begins, commits, errors = {}, {}, {}

function call.on_begin(handler)
  begins[#begins + 1] = handler
end

function call.on_commit(handler)
  commits[#commits + 1] = handler
end

function call.on_error(handler)
  errors[#errors + 1] = handler
end

-- `keys_given` names the key of the log; the first of `args` is the time of a manual clock.
function call.begin(keys_given, args)
  call.log_key, call.now_arg, call.has_written = keys_given[1], args[1] or '', false
  call.commits_left = #commits
  for i = 1, #begins do begins[i]() end
end

function call.commit()
  for i = call.commits_left, 1, -1 do
    call.commits_left = i - 1
    commits[i]()
  end
end

-- The handlers that have not been called yet commit, each for itself: the caller gets the
-- first error.
function call.fail()
  while call.commits_left > 0 do
    local i = call.commits_left
    call.commits_left = i - 1
    pcall(commits[i])
  end
  for i = 1, #errors do errors[i]() end
end
return call
