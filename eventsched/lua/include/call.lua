-- call: the life of one call, as a unit of work. Modules stay in memory from call to call. A module
-- registers its handlers once, when it is loaded:
--   on_begin   prepare the state of the module for the call;
--   on_commit  write the deferred changes. The module that was loaded last commits first, before
--              the modules that it uses. The handlers run after the script has returned, and also
--              after it has failed: Redis rolls nothing back, so the changes must be complete. A
--              handler that fails runs once more, so it must not repeat what it has written;
--   on_error   clean up after a call that has failed;
--   on_reset   empty the state of the module, so that no call sees the state of another call. A
--              commit handler empties the state that it has written. So these handlers run only
--              before a call whose predecessor has failed, or was stopped by the server.
-- The entry function (eventsched/store/library.py) runs the handlers; scripts do not.
local call = { log_key = '', now_arg = '', has_written = false, commits_left = 0, has_ended = true }
local begins, commits, errors, resets = {}, {}, {}, {}

function call.on_begin(handler)
  begins[#begins + 1] = handler
end

function call.on_commit(handler)
  commits[#commits + 1] = handler
end

function call.on_error(handler)
  errors[#errors + 1] = handler
end

function call.on_reset(handler)
  resets[#resets + 1] = handler
end

-- The first of `keys_given` is the log; the first of `args` is the time of a manual clock.
function call.begin(keys_given, args)
  call.log_key, call.now_arg, call.has_written = keys_given[1], args[1] or '', false
  call.commits_left = #commits
  if not call.has_ended then
    for i = 1, #resets do resets[i]() end
  end
  call.has_ended = false
  for i = 1, #begins do begins[i]() end
end

function call.commit()
  for i = #commits, 1, -1 do
    call.commits_left = i
    commits[i]()
  end
  call.has_ended = true
end

-- Call `step(...)`, which completes a change that this call has begun to write. If it fails,
-- `undo(...)` takes the beginning back, or sets a timer that completes the change; then the error
-- is raised again. Both functions get the same arguments, so that frequent calls create no
-- closures. Returns the result of `step`.
function call.or_else(undo, step, ...)
  local is_done, result = pcall(step, ...)
  if is_done then return result end
  pcall(undo, ...)
  error(result, 0)
end

-- Run the commit handlers that have not succeeded yet, each on its own. The caller of the script
-- gets the first error.
function call.fail()
  while call.commits_left > 0 do
    local i = call.commits_left
    call.commits_left = i - 1
    pcall(commits[i])
  end
  for i = 1, #errors do errors[i]() end
end
return call
