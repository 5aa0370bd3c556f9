// Events of the log, oldest first, with their cause and data.
import { clock, msOf, plural, time, ZONE } from "../format";
import { link } from "../route";
import type { LogEvent } from "../types";

interface EventsProps {
  events: LogEvent[];
  /** Whether the events are of many sessions and days: each has its date, and a link to its session. */
  hasSessions?: boolean;
}

export function Events({ events, hasSessions }: EventsProps) {
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
              <td role="cell" data-label="Time">
                {hasSessions ? time(msOf(event.id), true) : clock(msOf(event.id), true)}
                <br />
                <code class="dim">{event.id}</code>
              </td>
              <td role="cell" data-label="Event">
                {event.type ?? "unreadable"}
                {event.cause && (
                  <>
                    <br />
                    <code class="dim">caused by {event.cause}</code>
                  </>
                )}
              </td>
              <td role="cell" data-label="Of">
                {hasSessions && event.session && (
                  <>
                    <a href={link("session", event.session, { job: event.job, event: event.id, at: event.id })}>session</a>{" "}
                  </>
                )}
                {event.job && <a href={link("job", event.job)}>job</a>}{" "}
                {event.node && <a href={link("node", event.node)}>{event.node}</a>}
              </td>
              <td role="cell" data-label="Data" class="wrap">
                {event.text?.text && <p class="text">{event.text.text}</p>}
                <details>
                  <summary>{event.undecodable ?? summary(event.data)}</summary>
                  <pre>{JSON.stringify(event.data, null, 1)}</pre>
                </details>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The plain fields of an event in one line. */
export function summary(data: Record<string, unknown>): string {
  const plain = Object.entries(data).filter(([, value]) => value !== "" && typeof value !== "object");
  const line = plain.map(([name, value]) => `${name} ${value}`).join(", ");
  return line.length > 120 ? `${line.slice(0, 119)}…` : line || "no plain field";
}
