-- keys: every key that scripts build. A test compares them with eventsched/schema/keys.py, which
-- describes their contents. Ids in keys are names within the cell; the key of the log names the
-- cell.
-- include: call
local keys = {}
local single_keys = {
  'dispatch', 'dead_letters', 'timers', 'clock', 'settings', 'counters', 'classes', 'requirements',
  'node_index_starts',
  'waiting_tags', 'tenant_queued', 'tenant_undispatched', 'tenant_finish_tag', 'tenant_outbox',
  'tenant_lag', 'archive', 'erased', 'presence', 'stalled_timers', 'session_index_ends',
  'operator_requests', 'tenant_refused', 'backoffs',
}

call.on_begin(function()
  if keys.log == call.log_key then return end
  keys.log, keys.prefix = call.log_key, string.sub(call.log_key, 1, -4)
  keys.cell_name = string.match(keys.prefix, '{(.-)}')
  keys.full_pattern = keys.cell_name .. '%.([%w_-]+)'
  keys.whole_pattern = '^' .. keys.full_pattern .. '$'
  keys.room_pattern = '^' .. keys.cell_name .. '%.(([%w_-]+)/([%w_-]+))$'
  for _, kind in ipairs(single_keys) do keys[kind] = keys.prefix .. kind end
end)

function keys.of(kind, id, part)
  local key = keys.prefix .. kind .. ':' .. id
  if part then return key .. ':' .. part end
  return key
end

-- The full id of a name: `<cell>.<name>`.
function keys.full(name)
  return keys.cell_name .. '.' .. name
end

-- The name in a full id; nil for an id of another cell and for text that is not an id, so that no
-- caller reaches a key outside the cell.
function keys.name(full)
  local name = string.match(full or '', keys.whole_pattern)
  return name and #name <= 64 and name or nil
end

-- The key of a room by its full id, `<cell>.<tenant>/<name>`; nil for text that is not the id of a
-- room of this cell. Names have no `/`, so tenant and name of a room cannot be confused.
function keys.room(full)
  local room, tenant, name = string.match(full or '', keys.room_pattern)
  return room and #tenant <= 64 and #name <= 64 and keys.of('room', room) or nil
end
return keys
