-- json: what is said for every job, put together as text: a small part of what cjson takes for it.
-- Names, languages, ids and codes hold nothing that JSON would escape (rule 34); free text does.
local json = {}
function json.quote(value)
  if value == '' then return '""' end
  return cjson.encode(value)
end
-- `,"<name>":"<value>"`, or nothing for an empty value. For values that need no escaping.
function json.string_field(name, value)
  if not value or value == '' then return '' end
  return ',"' .. name .. '":"' .. value .. '"'
end
-- `,"<name>":["…"]` of a comma-joined list, or nothing for an empty one.
function json.list_field(name, joined)
  if not joined or joined == '' then return '' end
  return ',"' .. name .. '":["' .. string.gsub(joined, ',', '","') .. '"]'
end
-- A list for cjson: an empty one is left out, since cjson would write it as an object.
function json.optional_list(list)
  if list and #list > 0 then return list end
  return nil
end
function json.optional(value)
  if value and value ~= '' then return value end
  return nil
end
return json
