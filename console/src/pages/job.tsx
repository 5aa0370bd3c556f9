// Why a job ran where it ran: its stages, and the nodes at each decision.
import { duration, plural, time } from "../format";
import { Loaded } from "../parts/notes";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link } from "../route";
import type { Decision, Explanation, Stage } from "../types";
import type { PageProps } from "./index";

const LIVE_MS = 3_000;

export function Job({ place }: PageProps) {
  const reply = useReply<Explanation>(`jobs/${encodeURIComponent(place.id)}/why`, {}, LIVE_MS);
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
              utterance {job.utterance} in {job.target}, {plural(job.attempts, "attempt")} ·{" "}
              <a href={link("session", job.session, { job: job.job })}>its session</a>
            </p>
            {!job.is_complete && <p class="note">The first events of this job are gone: the stages begin later.</p>}
            <Stages stages={job.stages} />
            {job.decisions.map((decision) => (
              <DecisionView decision={decision} key={decision.id} />
            ))}
          </>
        )}
      </Loaded>
    </>
  );
}

function Stages({ stages }: { stages: Stage[] }) {
  const start = Math.min(...stages.map((each) => each.from_ms));
  const total = Math.max(1, ...stages.map((each) => each.from_ms + each.ms - start));
  const share = (ms: number) => (ms / total) * 1_000;
  return (
    <Table
      title={`Stages, ${duration(stages.length ? total : 0)} in all`}
      rows={stages}
      columns={[
        { name: "Stage", cell: (each) => each.name },
        { name: "From", cell: (each) => time(each.from_ms) },
        { name: "Took", isNumber: true, cell: (each) => `${duration(each.ms)}${each.is_open ? " so far" : ""}` },
        {
          name: "Share",
          cell: (each) => (
            <svg class="bar" viewBox="0 0 1000 16" preserveAspectRatio="none" aria-hidden="true">
              <rect x={share(each.from_ms - start)} width={Math.max(4, share(each.ms))} height="16" />
            </svg>
          ),
        },
        { name: "Ended by", isWrapped: true, cell: (each) => each.waited_for },
      ]}
    />
  );
}

function DecisionView({ decision }: { decision: Decision }) {
  return (
    <section>
      <h2>
        Attempt {decision.attempt}: {decision.node ? `to ${decision.node}` : "wait"}
      </h2>
      <p>
        <code>{decision.rule || decision.reason}</code> {decision.detail}
        {decision.ahead > 0 && ` ${plural(decision.ahead, "job")} before it in the queue.`}{" "}
        <code class="dim">{decision.id}</code>
      </p>
      {decision.nodes.length > 0 && (
        <Table
          title="Nodes at this moment"
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
