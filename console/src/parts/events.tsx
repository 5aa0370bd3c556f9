// Events of the log, oldest first, with their cause and data.
import { clock, msOf, plural, time, ZONE } from "../format";
import { Cause } from "./cause";
import { link } from "../route";
import type { LogEvent } from "../types";

interface EventsProps {
  events: LogEvent[];
  /** Whether the events are of many sessions and days: each has its date, and a link to its session. */
  hasSessions?: boolean;
}

export function Events({ events, hasSessions }: EventsProps) {
  const typeOf = new Map(events.map((event) => [event.id, event.type]));
  // The loss of a node is no event of a session; what it caused names it.
  for (const { data, cause } of events) if (LOSSES.has(String(data?.reason))) typeOf.set(cause.replace("log/", ""), "NodeLost");
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Events">
      <table role="table">
        <caption>{plural(events.length, "event")}</caption>
        <thead>
          <tr role="row">
            <th role="columnheader" scope="col">Time, {ZONE}</th>
            <th role="columnheader" scope="col">Event</th>
            <th role="columnheader" scope="col">Of</th>
            <th role="columnheader" scope="col">Data</th>
          </tr>
        </thead>
        <tbody>
          {events.map((event) => (
            <tr role="row" key={event.id} id={`event-${event.id}`}>
              <td role="cell" data-label={`Time, ${ZONE}`}>
                {hasSessions ? time(msOf(event.id), true) : clock(msOf(event.id), true)}
                <br />
                <code class="dim">{event.id}</code>
              </td>
              <td role="cell" data-label="Event">
                {event.type ?? "unreadable"}
                {event.cause && (
                  <>
                    <br />
                    <span class="dim">
                      caused by <Cause cause={event.cause} typeOf={typeOf} />
                    </span>
                  </>
                )}
              </td>
              <td role="cell" data-label="Of">
                {hasSessions && event.session && (
                  <>
                    <a href={link("session", event.session, { job: event.job, event: event.id, at: event.id })} title={event.session}>
                      {shortOf(event.session)}
                    </a>{" "}
                    {tenantOf(event) && `of ${tenantOf(event)}`}{" "}
                  </>
                )}
                {event.job && <a href={link("job", event.job)}>job</a>}{" "}
                {event.node && <a href={link("node", event.node)}>{event.node}</a>}
              </td>
              <td role="cell" data-label="Data" class="wrap">
                <EventContent event={event} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Reasons of AttemptEnded whose cause is the loss of the node. */
const LOSSES = new Set(["node_lost", "superseded"]);

/** What an event says: the text that it has, and its data, which opens. */
export function EventContent({ event }: { event: LogEvent }) {
  return (
    <>
      {event.text?.text && <p class="text">{event.text.text}</p>}
      <details>
        <summary>{event.undecodable ?? summary(event)}</summary>
        <pre>{JSON.stringify(event.data, null, 1)}</pre>
      </details>
    </>
  );
}

/** The cell and the first characters of a session's id. */
const shortOf = (session: string) => (session.length > 14 ? `${session.slice(0, session.indexOf(".") + 9)}…` : session);
/** The tenant of an event, which only the key of its job or the first event of a session names. */
const tenantOf = ({ job, data }: LogEvent) => String(data.tenant ?? job?.split(":")[0] ?? "");

const MISSING: Record<string, string> = {
  gap: "no outcome within the timeout of a delivery gap",
  close: "no outcome when the session closed",
  no_outcome: "no utterance has this number: a call failed after it had allocated it",
};
/** Type of an event -> its sentence, where the plain fields do not say it. */
const SENTENCES: Record<string, (data: Record<string, unknown>) => string> = {
  NodeLost: ({ reason, leases }) => `${reason}, ${leases ? `${plural(Number(leases), "job")} to dispatch again` : "no jobs"}`,
  ResultMissing: ({ utterance, target, reason }) => `utterance ${utterance} → ${target}: ${MISSING[String(reason)] ?? reason} (${reason})`,
};

/** An event in one line: its sentence, or its plain fields. */
function summary({ type, data }: LogEvent): string {
  const sentence = SENTENCES[type]?.(data);
  if (sentence) return sentence;
  const plain = Object.entries(data).filter(([, value]) => value !== "" && typeof value !== "object");
  const line = plain.map(([name, value]) => `${name} ${value}`).join(", ");
  return line.length > 120 ? `${line.slice(0, 119)}…` : line || "no plain field";
}
