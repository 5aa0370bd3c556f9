-- handler_error: why a handler failed, from the report of its node: class, first line and place of
-- the exception.
-- include: json
-- include: settings
local handler_error = {}

-- The first line of the exception; it may have personal data, and the setting `error_messages`
-- leaves it out.
function handler_error.message(report)
  return settings.error_messages ~= 0 and json.optional(report.error_message) or nil
end

-- The exception as JSON with the names of the fields of AttemptEnded; nil without one.
function handler_error.as_json(report)
  if not (report and json.optional(report.error_type)) then return nil end
  local message, place = handler_error.message(report), json.optional(report.error_place)
  return '{"error_type":' .. json.quote(report.error_type)
    .. (message and ',"error_message":' .. json.quote(message) or '')
    .. (place and ',"error_place":' .. json.quote(place) or '') .. '}'
end
return handler_error
