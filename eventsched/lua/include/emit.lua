-- emit: append one event. Its id is its time: `<now>-*`.
-- include: keys
-- include: write
local clock
-- `d` is JSON. For events that every chunk or job has: field by field in turn.
local function entry(stream, t, s, j, n, c, tp, d, b)
  return write('XADD', stream, clock.entry_id(),
    't', t, 'v', '1', 's', s, 'j', j, 'n', n, 'c', c, 'tp', tp, 'd', d, 'b', b)
end
-- For all others: by name, with `d` as a table, or the JSON that it would be.
local function emit(e)
  local d = e.d
  if type(d) == 'table' then d = cjson.encode(d) end
  return entry(keys.log, e.t, e.s or '', e.j or '', e.n or '', e.c or '', e.tp or '', d, e.b or '')
end
-- A list for `d`: an empty one is left out, since cjson would write it as an object.
local function some(list)
  if list and #list > 0 then return list end
  return nil
end
local function filled(text)
  if text and text ~= '' then return text end
  return nil
end
