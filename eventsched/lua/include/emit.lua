-- emit: append one event. Its id is its time: `<now>-*`.
-- include: keys
-- include: write
local clock
-- `d` is a table, or the JSON that it would be.
local function entry(stream, e)
  local d = e.d
  if type(d) == 'table' then d = cjson.encode(d) end
  return write('XADD', stream, clock.entry_id(),
    't', e.t, 'v', '1', 's', e.s or '', 'j', e.j or '', 'n', e.n or '', 'c', e.c or '',
    'tp', e.tp or '', 'd', d, 'b', e.b or '')
end
local function emit(e)
  return entry(keys.log, e)
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
