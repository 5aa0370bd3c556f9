-- emit: append one event. Its id is its time: `<now>-*`.
-- include: clock
-- include: keys
-- include: write
local emit = {}
-- `d` is JSON. For events that every chunk or job has: field by field in turn.
function emit.entry(stream, t, s, j, n, c, tp, d, b)
  return write('XADD', stream, clock.entry_id(),
    't', t, 'v', '1', 's', s, 'j', j, 'n', n, 'c', c, 'tp', tp, 'd', d, 'b', b)
end
-- For all others: by name, with `d` as a table, or the JSON that it would be.
function emit.event(e)
  local d = e.d
  if type(d) == 'table' then d = cjson.encode(d) end
  return emit.entry(keys.log, e.t, e.s or '', e.j or '', e.n or '', e.c or '', e.tp or '', d, e.b or '')
end
clock.on_adjusted(function(behind_ms, offset_ms)
  emit.event({ t = 'ClockAdjusted', d = { behind_ms = behind_ms, offset_ms = offset_ms } })
end)
return emit
