-- events: one function for each event type of eventsched/schema/events.py, with the same name. Each
-- function appends one event and returns its id. No other file builds the JSON of events; a test
-- compares the field names with the structs. The JSON of frequent events is concatenated, because
-- cjson takes several times as long. Free text from outside is escaped (`json.quote`); names,
-- languages and ids need no escaping (rule 34, names). Arguments for numbers in concatenated JSON
-- are text, unless a comment says otherwise.
-- include: clock
-- include: handler_error
-- include: json
-- include: keys
-- include: numbers
-- include: settings
-- include: strings
-- include: write
local events = {}
local as_text = numbers.text

-- The nine fields of an entry (`FIELDS` in schema/events.py). Its id is the time of the call.
local function append(stream, t, s, j, n, c, tp, d, b)
  return write('XADD', stream, clock.entry_id(),
    't', t, 'v', '1', 's', s, 'j', j, 'n', n, 'c', c, 'tp', tp, 'd', d, 'b', b)
end

local function append_of_session(t, s, tp, d)
  return append(keys.log, t, s, '', '', '', tp, cjson.encode(d), '')
end

local function append_of_node(t, n, d)
  return append(keys.log, t, '', '', n, '', '', cjson.encode(d), '')
end

local function append_of_cell(t, d)
  return append(keys.log, t, '', '', '', '', '', cjson.encode(d), '')
end

-- Sessions. `s` is a session as `sessions.get` returns it, `full` the full id of a session.

-- `fields` are the fields by name; lists are joined text.
function events.SessionOpened(full, tp, fields)
  return append_of_session('SessionOpened', full, tp, {
    tenant = fields.tenant, source = fields.source,
    targets = json.optional_list(strings.split(fields.targets)),
    features = json.optional_list(strings.split(fields.features)),
    features_hash = fields.features_hash, encoding = fields.encoding,
    sample_rate = fields.sample_rate, priority = fields.priority,
    room = json.optional(fields.room), listen_language = json.optional(fields.listen_language),
    epoch = 1, key = json.optional(fields.key) })
end

function events.SessionResumed(s, epoch)
  return append_of_session('SessionResumed', s.full, s.tp, { epoch = epoch })
end

-- Appended to the audio stream of the session, not to the log. `seq` and `ms` are numbers.
function events.AudioChunkAppended(s, seq, ms, end_of_utterance, payload)
  return append(keys.of('audio', s.name), 'AudioChunkAppended', s.full, '', '', '', s.tp,
    '{"seq":' .. as_text[seq] .. ',"ms":' .. as_text[ms] .. ',"utterance":' .. as_text[s.utterance]
      .. (end_of_utterance and ',"end_of_utterance":true}' or '}'), payload)
end

-- One item of `targets` in UtteranceFinalized; `to` is joined text.
function events.target(target, delivery_no, to)
  return '{"target":"' .. target .. '","delivery_no":' .. delivery_no
    .. json.list_field('to', to) .. '}'
end

-- The open utterance of `s`, whose traceparent is `tp`; `targets` are items as `events.target`
-- returns them, joined by commas.
function events.UtteranceFinalized(s, tp, reason, padding_ms, targets)
  return append(keys.log, 'UtteranceFinalized', s.full, '', '',
    'audio:' .. s.full .. '/' .. s.buf_last,
    tp, '{"utterance":' .. as_text[s.utterance] .. ',"turn":' .. as_text[s.turn] .. ',"ms":'
      .. as_text[s.buf_ms] .. ',"reason":"' .. reason .. '","first":"' .. s.buf_first
      .. '","last":"' .. s.buf_last .. '","count":' .. as_text[s.buf_count]
      .. ',"bytes":' .. as_text[s.buf_bytes]
      .. ',"padding_ms":' .. padding_ms .. ',"first_seq":' .. as_text[s.buf_seq]
      .. (targets ~= '' and ',"targets":[' .. targets .. ']}' or '}'), '')
end

function events.SessionClosing(s, reason)
  return append_of_session('SessionClosing', s.full, s.tp, { reason = reason })
end

function events.SessionClosed(s, missing)
  return append_of_session('SessionClosed', s.full, s.tp,
    { missing = missing > 0 and missing or nil })
end

-- `targets` is a table; `first` and `last` are numbers.
function events.JobsRetired(s, targets, first, last)
  return append_of_session('JobsRetired', s.full, s.tp, { tenant = s.tenant,
    features_hash = s.features_hash, first = first, last = last,
    targets = json.optional_list(targets) })
end

-- `targets` is a table.
function events.SessionRetired(s, targets)
  return append_of_session('SessionRetired', s.full, s.tp, { tenant = s.tenant,
    features_hash = s.features_hash, utterances = s.utterance,
    first = s.retired_to > 0 and s.retired_to or nil,
    targets = json.optional_list(targets) })
end

function events.SessionErased(full, tp, key)
  return append_of_session('SessionErased', full, tp, { key = key })
end

function events.PlaybackStarted(s, origin, target, utterance, until_ms)
  return append_of_session('PlaybackStarted', s.full, s.tp,
    { origin = origin, target = target, utterance = utterance, until_ms = until_ms })
end

function events.PlaybackEnded(s, origin, target, utterance, reason)
  return append_of_session('PlaybackEnded', s.full, s.tp,
    { origin = origin, target = target, utterance = tonumber(utterance), reason = reason })
end

function events.RoomJoined(full, tp, room, listen_language)
  return append_of_session('RoomJoined', full, tp,
    { room = room, listen_language = json.optional(listen_language) })
end

function events.RoomLeft(s)
  return append_of_session('RoomLeft', s.full, s.tp, { room = s.room })
end

-- Jobs. `job` is a job as `jobs` creates and loads it; `cause` names an entry, or is empty.

-- Until `avoid_until` the job avoids the node of its last attempt, until `not_before` it backs off;
-- nil if it does not.
function events.JobQueued(job, reason, cause, tag, deadline, avoid_until, not_before)
  return append(keys.log, 'JobQueued', job.session, job.key, '', cause, job.tp,
    '{"utterance":' .. job.utterance .. ',"target":"' .. job.target .. '","delivery_no":'
      .. job.delivery_no .. ',"source":"' .. job.source .. '"'
      .. json.list_field('features', job.features) .. ',"attempt":' .. as_text[job.attempt]
      .. ',"reason":"' .. reason .. '","priority":'
      .. as_text[job.priority] .. ',"tag":' .. tag .. ',"member":"' .. job.member
      .. '","deadline_ms":' .. deadline
      .. (not_before and ',"not_before_ms":' .. not_before or '')
      .. (avoid_until and ',"last":"' .. keys.full(job.node) .. '","avoid_until_ms":' .. avoid_until
        or '') .. '}', '')
end

-- The job keeps its tag, its member and its deadline.
function events.JobPromoted(job)
  return append(keys.log, 'JobPromoted', job.session, job.key, '', '', job.tp,
    '{"utterance":' .. job.utterance .. ',"target":"' .. job.target .. '","delivery_no":'
      .. job.delivery_no .. ',"attempt":' .. as_text[job.attempt] .. ',"priority":'
      .. as_text[job.priority] .. '}', '')
end

-- One item of `classes` in JobDispatched. `head` is the name of the least loaded node, or nil.
function events.class_seen(id, head, load, free, full, draining)
  return '{"id":"' .. id .. '"'
    .. (head and ',"head":"' .. keys.full(head) .. '","load":' .. as_text[load] or '') .. ',"free":'
    .. as_text[free] .. ',"full":' .. as_text[full] .. ',"draining":' .. as_text[draining] .. '}'
end

-- `other_classes` in JobDispatched: the number of the classes that are not named, and of their
-- nodes.
function events.other_classes(count, free, full, draining)
  return '{"classes":' .. as_text[count] .. ',"free":' .. as_text[free] .. ',"full":'
    .. as_text[full] .. ',"draining":' .. as_text[draining] .. '}'
end

-- `affinity` in JobDispatched: the last node of the session; `why` it is not chosen, or empty.
function events.affinity(node, why)
  return '{"node":"' .. keys.full(node) .. '"' .. json.string_field('why', why) .. '}'
end

-- `winner` and `runner_up` in JobDispatched: a waiting job as `queue.head` returns it.
function events.rank(head)
  return '{"priority":' .. as_text[head.priority] .. ',"tag":' .. head.tag_text .. ',"member":"'
    .. head.member .. '"}'
end

-- How long ago the utterance was finalized, at the time `finalized`, text; nothing without it.
local function age_field(finalized)
  local finalized_ms = tonumber(finalized)
  if not finalized_ms then return '' end
  return ',"age_ms":' .. as_text[clock.now() - finalized_ms]
end

-- How long the job has waited in the queue: its wait ends at `job.deadline`.
local function waited_field(job)
  return ',"waited_ms":' .. as_text[clock.now() - job.deadline + settings.queue_timeout_ms]
end

-- `choice` is the decision of `assign`. Its `classes`, `others` and `affinity` are JSON.
function events.JobDispatched(job, node, cause, choice, deadline, context_at)
  local compared = choice.compared
  return append(keys.log, 'JobDispatched', job.session, job.key, node.full, cause, job.tp,
    '{"utterance":' .. job.utterance .. ',"target":"' .. job.target .. '","delivery_no":'
      .. job.delivery_no .. ',"turn":' .. job.turn .. ',"source":"' .. job.source .. '"'
      .. json.list_field('features', job.features) .. ',"attempt":' .. as_text[job.attempt]
      .. ',"epoch":' .. node.epoch_text .. ',"deadline_ms":' .. deadline
      .. ',"audio_ms":' .. job.ms .. ',"rule":"'
      .. choice.rule .. '","policy":' .. choice.policy
      .. (choice.affinity and ',"affinity":' .. choice.affinity or '')
      .. ',"classes":[' .. choice.classes .. ']'
      .. (choice.others and ',"other_classes":' .. choice.others or '')
      .. (compared and ',"compared":' .. compared .. ',"winner":'
        .. events.rank(choice.winner) .. age_field(job.finalized) .. waited_field(job) or '')
      .. (choice.runner_up and ',"runner_up":' .. events.rank(choice.runner_up) or '')
      .. json.string_field('last', choice.last)
      .. json.string_field('context_at', context_at) .. '}', '')
end

-- `report` has why the handler failed, or is nil.
function events.AttemptEnded(job, reason, code, cause, report)
  local data = { utterance = tonumber(job.utterance), target = job.target, attempt = job.attempt,
    epoch = job.epoch, reason = reason, code = json.optional(code) }
  if report then
    data.error_type = json.optional(report.error_type)
    data.error_message = handler_error.message(report)
    data.error_place = json.optional(report.error_place)
  end
  return append(keys.log, 'AttemptEnded', job.session, job.key, keys.full(job.node), cause, job.tp,
    cjson.encode(data), '')
end

function events.JobFailed(job, code, cause)
  return append(keys.log, 'JobFailed', job.session, job.key, '', cause, job.tp,
    cjson.encode({ utterance = tonumber(job.utterance), target = job.target,
      delivery_no = tonumber(job.delivery_no), attempt = job.attempt, code = code }), '')
end

-- `delivered` in ResultRecorded: the recipients, at least one, and those that have closed, as
-- joined text.
function events.delivered(to, skipped)
  return '{"to":["' .. json.items(to) .. '"]' .. json.list_field('skipped', skipped) .. '}'
end

-- `result` has the fields of the report by name; `more` is JSON of further fields, or empty.
local function append_result(t, job, result, more)
  return append(keys.log, t, job.session, job.key, keys.full(job.node), '', job.tp,
    '{"utterance":' .. job.utterance .. ',"target":"' .. job.target .. '","delivery_no":'
      .. job.delivery_no .. ',"attempt":' .. as_text[job.attempt] .. ',"epoch":'
      .. as_text[job.epoch] .. ',"status":"' .. result.status .. '"'
      .. (result.code ~= '' and ',"code":' .. json.quote(result.code) or '')
      .. (result.audio ~= '' and ',"audio_bytes":' .. #result.audio .. ',"audio_sha256":"'
        .. result.audio_sha256 .. '"' or '') .. age_field(job.finalized) .. more .. '}',
    result.body)
end

-- `delivered` is JSON if the event also delivers the result, and nil if the result is held.
function events.ResultRecorded(job, result, delivered)
  return append_result('ResultRecorded', job, result,
    delivered and ',"delivered":' .. delivered or '')
end

function events.ResultReplaced(job, result)
  return append_result('ResultReplaced', job, result, '')
end

function events.ResultRefused(job, node, epoch, attempt, what, code)
  return append(keys.log, 'ResultRefused', job.session, job.key, keys.full(node), '', job.tp,
    cjson.encode({ attempt = attempt, epoch = epoch, what = what, code = code }), '')
end

-- The delivery number `number` of a target has ended; `to` and `skipped` are joined text.
function events.ResultDelivered(full, target, number, outcome, ending, to, skipped)
  local code = ending.code
  return append(keys.log, 'ResultDelivered', full, ending.job, '', ending.cause or '', ending.tp,
    '{"utterance":' .. outcome.utterance .. ',"target":"' .. target .. '","delivery_no":' .. number
      .. ',"outcome":"' .. ending.kind .. '"'
      .. (code and code ~= '' and ',"code":' .. json.quote(code) or '')
      .. age_field(ending.finalized) .. json.list_field('to', to)
      .. json.list_field('skipped', skipped) .. '}', ending.body or '')
end

function events.ResultMissing(full, target, number, outcome, ending, to, skipped)
  return append(keys.log, 'ResultMissing', full, ending.job, '', ending.cause or '', ending.tp,
    '{"utterance":' .. outcome.utterance .. ',"target":"' .. target .. '","delivery_no":' .. number
      .. ',"reason":"' .. ending.reason .. '"' .. json.list_field('to', to)
      .. json.list_field('skipped', skipped) .. '}', '')
end

-- Nodes. `node` is a node as `nodes.get` returns it.

-- `version` is the version that the node reports; lists are joined text.
function events.NodeRegistered(node, version)
  return append_of_node('NodeRegistered', node.full, { epoch = node.epoch,
    sources = strings.split(node.sources), targets = strings.split(node.targets),
    features = json.optional_list(strings.split(node.features)), slots = node.slots,
    version = json.optional(version), class = node.class })
end

-- `by` and `why` are those of an operator, or empty.
function events.NodeDraining(node, by, why)
  return append_of_node('NodeDraining', node.full, { epoch = node.epoch, by = json.optional(by),
    why = json.optional(why) })
end

function events.NodeDrained(node)
  return append_of_node('NodeDrained', node.full, { epoch = node.epoch })
end

function events.NodeLost(node, reason, leases)
  return append_of_node('NodeLost', node.full, { epoch = node.epoch, reason = reason,
    leases = leases > 0 and leases or nil })
end

function events.NodeRetired(node)
  return append_of_node('NodeRetired', node.full, { epoch = node.epoch })
end

-- `scope` is node, feature or language_pair. `subject` is the feature, the language pair as
-- `<source>><target>`, or empty for the whole node.
function events.NodeSuspended(node, scope, subject, reason, until_ms)
  return append_of_node('NodeSuspended', node.full, { epoch = node.epoch, scope = scope,
    subject = json.optional(subject), reason = reason, until_ms = until_ms, class = node.class })
end

function events.NodeResumed(node, scope, subject, reason)
  return append_of_node('NodeResumed', node.full, { epoch = node.epoch, scope = scope,
    subject = json.optional(subject), reason = reason, class = node.class })
end

-- The cell.

-- `tenant` is the tenant that is refused; nil for the whole cell.
function events.BackpressureStarted(reason, seen, limit, tenant)
  return append_of_cell('BackpressureStarted', { reason = reason, tenant = tenant, seen = seen,
    limit = limit })
end

function events.BackpressureEnded(reason, seen, limit, tenant)
  return append_of_cell('BackpressureEnded', { reason = reason, tenant = tenant, seen = seen,
    limit = limit })
end

function events.ClockAdjusted(behind_ms, offset_ms)
  return append_of_cell('ClockAdjusted', { behind_ms = behind_ms, offset_ms = offset_ms })
end

function events.StreamTrimmed(stream, before, count, total)
  return append_of_cell('StreamTrimmed',
    { stream = stream, before = before, count = count, total = total })
end

function events.ArchiveAbandoned(of, to, gone, why, by)
  return append_of_cell('ArchiveAbandoned', { of = of, to = to, gone = gone, why = why, by = by })
end

-- `fields` are the fields by name, `roots` is joined text.
function events.ArchiveSetAside(fields, roots)
  return append_of_cell('ArchiveSetAside', { of = fields.of, first = fields.first,
    last = fields.last, first_segment = fields.first_segment, segments = fields.segments,
    entries = fields.entries, head = fields.head, roots = strings.split(roots), why = fields.why,
    by = fields.by })
end

-- `position` is the id of the last entry that the group had read, `pending` a number.
function events.ConsumerGroupDropped(group, position, pending, why, by)
  return append_of_cell('ConsumerGroupDropped', { group = group, position = position,
    pending = pending > 0 and pending or nil, why = why, by = by })
end

-- `repair` has the full ids of a session, a job and a node, or empty texts, and the other fields of
-- the event.
function events.CellRepaired(repair)
  return append(keys.log, 'CellRepaired', repair.session, repair.job, repair.node, '', '',
    cjson.encode({ where = repair.where, what = repair.what,
      gives_up = json.optional(repair.gives_up), accepts = json.optional(repair.accepts),
      why = repair.why, by = json.optional(repair.by) }), '')
end

-- What an operator did. `letters` has the first id, the last id, the count and the filter of the
-- dead letters; `operator` has who and why.
local function append_dead_letters(t, letters, operator)
  return append_of_cell(t, { first = letters.first, last = letters.last, count = letters.count,
    filter = json.optional(letters.filter), why = operator.why, by = operator.by })
end

function events.DeadLettersRetried(letters, operator)
  return append_dead_letters('DeadLettersRetried', letters, operator)
end

function events.DeadLettersDiscarded(letters, operator)
  return append_dead_letters('DeadLettersDiscarded', letters, operator)
end

-- One item of `revisions` in the events of a rebuild.
function events.revision(projection, revision)
  return { projection = projection, revision = revision }
end

function events.RebuildStarted(revisions, operator)
  return append_of_cell('RebuildStarted', { revisions = revisions, why = operator.why,
    by = operator.by })
end

function events.RebuildPromoted(revisions, entries, left_out, operator)
  return append_of_cell('RebuildPromoted', { revisions = revisions, entries = entries,
    left_out = left_out > 0 and left_out or nil, why = operator.why, by = operator.by })
end

clock.on_adjusted(events.ClockAdjusted)
return events
