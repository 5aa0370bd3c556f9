-- json: JSON as concatenated text, for frequent events: cjson takes several times as long. Names,
-- languages, ids and codes have no characters that JSON escapes (rule 34, names); free text may.
local json = {}

-- Any text as a JSON string.
function json.quote(value)
  if value == '' then return '""' end
  return cjson.encode(value)
end

-- `,"<name>":"<value>"`, or nothing for an empty value. The value needs no escaping.
function json.string_field(name, value)
  if not value or value == '' then return '' end
  return ',"' .. name .. '":"' .. value .. '"'
end

-- The items of a list joined by commas, without the first and the last quote.
function json.items(joined)
  if string.find(joined, ',', 1, true) then joined = string.gsub(joined, ',', '","') end
  return joined
end

-- `,"<name>":["…"]` of a list joined by commas, or nothing for an empty list.
function json.list_field(name, joined)
  if not joined or joined == '' then return '' end
  return ',"' .. name .. '":["' .. json.items(joined) .. '"]'
end

-- For tables that cjson encodes: nil instead of an empty text, so that the field is omitted.
function json.optional(value)
  if value and value ~= '' then return value end
  return nil
end

-- For tables that cjson encodes: nil instead of an empty list, which cjson would encode as an
-- object.
function json.optional_list(list)
  if list and #list > 0 then return list end
  return nil
end
return json
