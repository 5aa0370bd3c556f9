-- keys: every key that scripts build. A test compares them with eventsched/schema/keys.py, which says what
-- each holds. Ids in keys are names within the cell; the key of the log says which cell that is.
-- include: call
local keys = {}
local ones = {
  'dispatch', 'dead_letters', 'timers', 'clock', 'settings', 'counters', 'classes', 'requirements', 'tenant_queued', 'tenant_finish_tag',
  'archive', 'erased',
}

call.on_begin(function()
  if keys.log == call.log_key then return end
  keys.log, keys.prefix = call.log_key, string.sub(call.log_key, 1, -4)
  keys.cell_name = string.match(keys.prefix, '{(.-)}')
  keys.full_pattern = keys.cell_name .. '%.([%w_-]+)'
  keys.whole_pattern = '^' .. keys.full_pattern .. '$'
  for _, kind in ipairs(ones) do keys[kind] = keys.prefix .. kind end
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

-- The name of a full id; nil for an id of another cell and for what is no id, so that no id reaches
-- a key outside the cell.
function keys.name(full)
  local name = string.match(full or '', keys.whole_pattern)
  return name and #name <= 64 and name or nil
end
return keys
