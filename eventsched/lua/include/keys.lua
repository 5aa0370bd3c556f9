-- keys: every key that scripts build; the twin of eventsched/schema/keys.py, which says what each holds.
-- Arguments are names inside the cell, which the key of its log tells.
-- include: call
local keys = {}
local ones = { 'dispatch', 'dead_letters', 'timers', 'clock', 'settings', 'counters', 'classes', 'requirements', 'tenant_queued', 'tenant_finish_tag', 'archive', 'erased' }
call.on_begin(function()
  if keys.log == call.log_key then return end
  keys.log, keys.prefix = call.log_key, string.sub(call.log_key, 1, -4)
  keys.cell_name = string.match(keys.prefix, '{(.-)}')
  keys.own = keys.cell_name .. '%.([%w_-]+)'
  keys.only_own = '^' .. keys.own .. '$'
  for _, kind in ipairs(ones) do keys[kind] = keys.prefix .. kind end
end)
function keys.of(kind, id, part)
  local key = keys.prefix .. kind .. ':' .. id
  if part then return key .. ':' .. part end
  return key
end
function keys.full(name)
  return keys.cell_name .. '.' .. name
end
-- `<cell>.<name>` -> name; nil when it names another cell or is no name at all, so that no id
-- can reach a key that is not its own. `own` is for patterns in which it stands among others.
function keys.name(full)
  local name = string.match(full or '', keys.only_own)
  return name and #name <= 64 and name or nil
end
return keys
