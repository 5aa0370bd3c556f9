-- repair: what the scripts of a repair share: the checks of the texts of its event, and the check
-- that the log has not moved.
-- include: keys
-- include: reply
-- include: validate
local repair = {}
local later_max, text_max = 256, 1000

-- The refusal of the operator's reason or name, or of another text of the event; nil for none.
function repair.refusal(why, by, ...)
  for _, text in ipairs({ ... }) do
    if not validate.is_text(text, text_max) then
      return validate.invalid('change', 'texts of at most 1000 bytes')
    end
  end
  return validate.operator_refusal(why, by)
end

-- Whether an entry after `at` concerns one of the subjects: full ids of sessions and nodes, job
-- keys. Then the change was computed from an older state. More than 256 later entries count as
-- well. The events of repairs do not: they change no fold.
function repair.has_moved(at, subjects)
  local is_subject = {}
  for _, subject in ipairs(subjects) do is_subject[subject] = true end
  local later = redis.call('XRANGE', keys.log, '(' .. at, '+', 'COUNT', later_max + 1)
  if #later > later_max then return true end
  for _, entry in ipairs(later) do
    local fields = reply.by_name(entry[2])
    local concerns = is_subject[fields.s] or is_subject[fields.j] or is_subject[fields.n]
    if concerns and fields.t ~= 'CellRepaired' then return true end
  end
  return false
end

return repair
