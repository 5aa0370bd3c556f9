-- timer_handlers: the handler of each kind of timer. A handler gets the id of the timer and the
-- time at which it was due, and checks that the cause of the timer still holds. A handler that
-- returns true ends the call.
-- include: job_timers
-- include: node_timers
-- include: outcome_timers
-- include: retire_timer
-- include: session_timers
local timer_handlers = {
  age = job_timers.age, avoid = job_timers.avoid, backoff = job_timers.backoff,
  close = outcome_timers.close, drain = node_timers.drain,
  gap = outcome_timers.gap, gone = node_timers.gone, idle = session_timers.idle,
  leases = node_timers.leases, lost = node_timers.lost,
  suspension = node_timers.suspension, node = node_timers.node, pause = session_timers.pause,
  playback = session_timers.playback, retire = retire_timer.retire, retry = job_timers.retry,
  wait = job_timers.wait,
}
return timer_handlers
