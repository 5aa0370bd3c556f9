-- groups: consumer groups of streams. A group has one owner, who processes its entries in order and
-- saves how far it has come. Entries are read without acknowledgement, so the saved position is the
-- acknowledgement, and the position of the group may be wrong: a process that was suspended, or
-- another program, may have read from the group or moved it.
-- include: keys
-- include: numbers
-- include: reply
-- include: strings
-- include: write
local groups = {}
local removed_max = 128

-- Whether the group belongs to the system. The archive and each projection set that has run have a
-- lease by the name of their group.
function groups.is_of_system(name)
  return name == 'archive' or name == 'dispatch' or name == 'core'
    or redis.call('EXISTS', keys.of('lease', name)) == 1
end

-- Create the group if it does not exist; returns true if this call has created it. The group reads
-- the entries after the id `from`. More arguments of XGROUP CREATE may follow.
function groups.create(stream, name, from, ...)
  local is_done, failure = pcall(write, 'XGROUP', 'CREATE', stream, name, from, 'MKSTREAM', ...)
  if is_done then return true end
  if not string.find(strings.error_text(failure), 'BUSYGROUP', 1, true) then error(failure, 0) end
  return false
end

-- The fields of the group as XINFO GROUPS names them; nil if the group does not exist.
function groups.find(stream, name)
  if redis.call('EXISTS', stream) == 0 then return nil end
  for _, group_reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = reply.by_name(group_reply)
    if group.name == name then return group end
  end
end

-- The group reads the entries after `id`; the stream ever had `count` entries up to it. So the
-- server knows the lag of the group.
function groups.move(stream, name, id, count)
  write('XGROUP', 'SETID', stream, name, id, 'ENTRIESREAD', numbers.text[count])
end

-- Move the group to the position that its owner has saved; create the group if it does not exist.
-- Returns whether the group was elsewhere.
function groups.restore(stream, name, id, count)
  local group = groups.find(stream, name)
  if not group then
    groups.create(stream, name, id, 'ENTRIESREAD', numbers.text[count])
    return false
  end
  if group['last-delivered-id'] == id and group['entries-read'] == count then return false end
  groups.move(stream, name, id, count)
  return true
end

-- The stream is empty: move the group to its end if the server reports another lag than 0, or none.
function groups.restore_to_end(stream, name)
  local group = groups.find(stream, name)
  if group and group.lag == 0 then return end
  local info = reply.by_name(redis.call('XINFO', 'STREAM', stream))
  groups.move(stream, name, info['last-generated-id'], info['entries-added'])
end

-- Remove the other consumers that have not read for `idle_ms`, at most 128; with `keeps_pending`
-- not those that have unacknowledged entries. Returns their number.
function groups.remove_idle(stream, name, own, idle_ms, keeps_pending)
  local removed = 0
  for _, consumer_reply in ipairs(redis.call('XINFO', 'CONSUMERS', stream, name)) do
    local consumer = reply.by_name(consumer_reply)
    local may_go = consumer.name ~= own and consumer.idle >= idle_ms
      and not (keeps_pending and consumer.pending > 0)
    if may_go and removed < removed_max then
      write('XGROUP', 'DELCONSUMER', stream, name, consumer.name)
      removed = removed + 1
    end
  end
  return removed
end

-- The owner is the only consumer of the group.
function groups.claim(stream, name, owner)
  groups.remove_idle(stream, name, owner, 0)
  write('XGROUP', 'CREATECONSUMER', stream, name, owner)
end

-- The consumer has left the group.
function groups.leave(stream, name, consumer)
  write('XGROUP', 'DELCONSUMER', stream, name, consumer)
end
return groups
