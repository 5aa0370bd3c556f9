// Why a job ran where it ran: its stages, and the nodes at each decision.
import { useEffect, useState } from "preact/hooks";
import { duration, number, plural, time } from "../format";
import { useNews } from "../live";
import { meaningOf } from "../meanings";
import { inZone } from "../moments";
import { Cause } from "../parts/cause";
import { Loaded } from "../parts/notes";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link } from "../route";
import type { Decision, Explanation, Stage } from "../types";
import type { PageProps } from "./index";

/** An open job is read again this often, and when it has an event: how long it waits changes. */
const OPEN_MS = 10_000;

export function Job({ place, tenant }: PageProps) {
  const [known, setKnown] = useState({ key: "", isOpen: true });
  const { news } = useNews((event) => event.job === known.key, known.key);
  const everyMs = known.isOpen ? OPEN_MS : 0;
  const reply = useReply<Explanation>(`jobs/${encodeURIComponent(place.id)}/why`, {}, everyMs, news);
  const { job: key = "", outcome = "" } = reply.data ?? {};
  useEffect(() => {
    if (key) setKnown({ key, isOpen: !outcome });
  }, [key, outcome]);
  return (
    <>
      <h1>Job {place.id}</h1>
      <Loaded reply={reply}>
        {(job) => (
          <>
            <p>
              <span class={job.outcome === "failed" || job.outcome === "missing" ? "badge bad" : "badge"}>
                {[job.outcome || "open", job.code].filter(Boolean).join(" ")}
              </span>{" "}
              utterance {job.utterance} → {job.target}, {plural(job.attempts, "attempt")} ·{" "}
              <a href={link("session", job.session, { job: job.job })}>its session</a>
            </p>
            {!job.is_complete && <p class="note">The first events of this job are gone: the stages begin later.</p>}
            <Stages stages={job.stages} hasCauses={tenant === "*"} />
            {job.decisions.map((decision) => (
              <DecisionView decision={decision} key={decision.id} />
            ))}
          </>
        )}
      </Loaded>
    </>
  );
}

/** `hasCauses`: whether the reader sees events of nodes, of which a token for one tenant sees none. */
function Stages({ stages, hasCauses }: { stages: Stage[]; hasCauses: boolean }) {
  const start = Math.min(...stages.map((each) => each.from_ms));
  const total = Math.max(1, ...stages.map((each) => each.from_ms + each.ms - start));
  const share = (ms: number) => (ms / total) * 1_000;
  return (
    <Table
      title={`Stages, ${duration(stages.length ? total : 0)} in all`}
      rows={stages}
      columns={[
        { name: "Stage", cell: (each) => each.name },
        { name: "From", isTime: true, cell: (each) => time(each.from_ms, true) },
        { name: "Took", isNumber: true, cell: (each) => `${duration(each.ms)}${each.is_open ? " so far" : ""}` },
        {
          name: "Share",
          cell: (each) => (
            <svg class="bar" viewBox="0 0 1000 16" preserveAspectRatio="none" aria-hidden="true">
              <rect x={share(each.from_ms - start)} width={Math.max(4, share(each.ms))} height="16" />
            </svg>
          ),
        },
        {
          name: "Ended by",
          isWrapped: true,
          cell: (each) => (
            <>
              {hasCauses ? <Linked text={each.waited_for} /> : each.waited_for}
              {each.cause && hasCauses && (
                <>
                  , caused by <Cause cause={each.cause} isRead />
                </>
              )}
            </>
          ),
        },
      ]}
    />
  );
}

/** A text in which each id of the log is a link to its event. */
function Linked({ text }: { text: string }) {
  const parts = text.split(/log\/(\d+-\d+)/); // every second part is an id
  return (
    <>
      {parts.map((part, index) =>
        index % 2 ? (
          <a href={link("history", "", { about: "everything", since: part, until: part })} class="whole" key={index}>
            {part}
          </a>
        ) : (
          part
        ),
      )}
    </>
  );
}

function DecisionView({ decision }: { decision: Decision }) {
  const meaning = meaningOf(decision.rule || decision.reason);
  return (
    <section>
      <h2>
        Attempt {decision.attempt}: {decision.node ? `to ${decision.node}` : "wait"}
      </h2>
      <p>
        <code>{decision.rule || decision.reason}</code>
        {meaning && `: ${meaning}.`} {inZone(decision.detail, decision.until_ms)}
        {decision.ahead > 0 && ` ${plural(decision.ahead, "job")} before it in the queue.`}{" "}
        <code class="dim">{decision.id}</code>
      </p>
      {decision.is_far && (
        <p class="dim">
          The log has too many entries before this decision to show each node; <code>eventsched why</code> shows them.
        </p>
      )}
      {decision.classes.length > 0 && decision.nodes.length === 0 && (
        <Table
          title="Capability classes that were compared"
          rows={decision.classes}
          columns={[
            { name: "Least loaded node", cell: ({ head }) => (head ? <a href={link("node", head)}>{head}</a> : "none is free") },
            { name: "Its load", isNumber: true, cell: ({ load = 0 }) => `${(load / 10).toFixed(0)} %` },
            { name: "Free", isNumber: true, cell: ({ free = 0 }) => number(free) },
            { name: "Full", isNumber: true, cell: ({ full = 0 }) => number(full) },
            { name: "Draining", isNumber: true, cell: ({ draining = 0 }) => number(draining) },
            { name: "Class", cell: ({ id }) => <code>{id}</code> },
          ]}
        />
      )}
      {decision.nodes.length > 0 && (
        <Table
          title={`Nodes at this moment${decision.nodes.length < decision.nodes_total ? `: ${decision.nodes.length} of ${number(decision.nodes_total)}` : ""}`}
          rows={decision.nodes}
          columns={[
            { name: "Node", cell: (each) => <a href={link("node", each.node)}>{each.node}</a> },
            {
              name: "Verdict",
              cell: (each) => <span class={each.verdict === "chosen" ? "badge good" : "badge"}>{each.verdict}</span>,
            },
            { name: "Slots in use", isNumber: true, cell: (each) => `${each.live} of ${each.slots}` },
            { name: "Load", isNumber: true, cell: (each) => `${(each.load / 10).toFixed(0)} %` },
            { name: "Detail", cell: (each) => each.detail },
          ]}
        />
      )}
    </section>
  );
}
