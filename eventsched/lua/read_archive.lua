#!lua flags=allow-oom
-- read_archive: the positions of the archive and of the log. After this call no entry is appended
-- with a time before the `now` of the reply, so all older entries are complete.
-- KEYS
--   log_key         es1:{cell}:log         stream
--   absent_key      es1:{cell}:absent      no key: never exists
-- ARGV
--   now_arg         ms                     used in a cell with a manual clock only
-- Reply: [now, entries added so far, entries left, first id or empty, last id or empty,
--   archived to or empty, key of the archive or empty, archive_entries_max, archive_window_ms]
-- Refusals: INVALID_MESSAGE
-- Events: none
-- Bound: one stream
-- include: clock
-- include: keys
-- include: reply
-- include: settings
local now = clock.now()
local stored = redis.call('HMGET', keys.archive, 'to', 'of')
if redis.call('EXISTS', keys.log) == 0 then
  return { now, 0, 0, '', '', stored[1] or '', stored[2] or '', settings.archive_entries_max,
    settings.archive_window_ms }
end
local stream = reply.by_name(redis.call('XINFO', 'STREAM', keys.log))
local first, last = stream['first-entry'], stream['last-entry']
return { now, stream['entries-added'], stream['length'], first and first[1] or '',
  last and last[1] or '', stored[1] or '', stored[2] or '', settings.archive_entries_max,
  settings.archive_window_ms }
