// One session: its timeline, the text in each language, and its events. An utterance in a language is
// a job; a selected job shows only its own events.
import { useState } from "preact/hooks";
import { address } from "../api";
import { time } from "../format";
import { Events } from "../parts/events";
import { Empty, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { useReply } from "../reply";
import { link, type Place } from "../route";
import type { EventPage, LogEvent, State } from "../types";
import type { PageProps } from "./index";

const LIVE_MS = 3_000;
const EVENTS = "500";

export function Session({ place }: PageProps) {
  const state = useReply<State>(`sessions/${encodeURIComponent(place.id)}`, {}, LIVE_MS);
  const { after = "", job = "" } = place.query;
  const events = useReply<EventPage>("history", { session: place.id, after, count: EVENTS }, LIVE_MS);
  return (
    <>
      <h1>Session {place.id}</h1>
      <Loaded reply={state}>{({ view, at }) => <Facts view={view} id={place.id} at={at} />}</Loaded>
      <Loaded reply={events}>
        {(page) => (
          <>
            <Transcript events={page.events} place={place} />
            {job ? <JobEvents job={job} place={place} /> : <Events events={page.events} />}
            <Pager place={place} next={page.next} />
          </>
        )}
      </Loaded>
    </>
  );
}

function Facts({ view, id, at }: { view: Record<string, unknown>; id: string; at: string }) {
  const [isWide, setWide] = useState(false);
  const targets = (view.targets as string[] | undefined) ?? [];
  return (
    <>
      <p>
        <span class="badge">{String(view.status ?? "open")}</span> {String(view.source)} → {targets.join(", ")} · tenant{" "}
        {String(view.tenant)} · opened {time(Number(view.opened_ms))}
      </p>
      <section aria-label="Timeline">
        <h2>
          Timeline{" "}
          <button type="button" aria-pressed={isWide} onClick={() => setWide(!isWide)}>
            Full size
          </button>
        </h2>
        <div class={isWide ? "picture wide" : "picture"} tabIndex={0} role="region" aria-label="Picture of the timeline">
          <img
            src={address(`sessions/${encodeURIComponent(id)}/timeline`, { until: at })}
            alt="Utterances, attempts on nodes and results over time. The list of events below has the same facts as text."
          />
        </div>
      </section>
    </>
  );
}

/** The target language of a job, a part of its key. */
const targetOf = (job: string) => job.split(":")[4]!;

function Transcript({ events, place }: { events: LogEvent[]; place: Place }) {
  const results = events.filter((event) => event.job && /^(Result(Recorded|Replaced|Missing)|JobFailed)$/.test(event.type));
  const targets = [...new Set(results.map((event) => targetOf(event.job)))].sort();
  const utterances = new Map<number, Map<string, LogEvent>>();
  for (const event of results) {
    const utterance = Number(event.data.utterance ?? event.job.split(":")[2]);
    if (!utterances.has(utterance)) utterances.set(utterance, new Map());
    utterances.get(utterance)!.set(targetOf(event.job), event);
  }
  if (!results.length) return <Empty>No result yet: what is spoken appears here.</Empty>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Transcript">
      <table class="transcript">
        <caption>Transcript: select a text to see how it came about</caption>
        <thead>
          <tr>
            <th scope="col">Utterance</th>
            <th scope="col">spoken</th>
            {targets.map((target) => (
              <th scope="col" key={target}>
                {target}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {[...utterances].map(([utterance, byTarget]) => (
            <tr key={utterance}>
              <th scope="row">{utterance}</th>
              <td class="wrap">{[...byTarget.values()].find((each) => each.text?.source_text)?.text?.source_text}</td>
              {targets.map((target) => (
                <td class="wrap" key={target}>
                  <Cell event={byTarget.get(target)} place={place} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Cell({ event, place }: { event: LogEvent | undefined; place: Place }) {
  if (!event) return <span class="dim">no result yet</span>;
  const isSelected = place.query.job === event.job;
  const text = event.text?.text || (event.type === "ResultRecorded" ? "(no text)" : event.type);
  return (
    <a href={link("session", place.id, { ...place.query, job: event.job })} aria-current={isSelected || undefined}>
      {text}
    </a>
  );
}

function JobEvents({ job, place }: { job: string; place: Place }) {
  const events = useReply<EventPage>("history", { job, count: EVENTS }, LIVE_MS);
  const { job: _, ...query } = place.query;
  return (
    <section aria-label="The selected job">
      <h2>The selected job</h2>
      <p>
        <code>{job}</code> · <a href={link("job", job)}>Why this node?</a> ·{" "}
        <a href={link("session", place.id, query)}>All events</a>
      </p>
      <Loaded reply={events}>{(page) => <Events events={page.events} />}</Loaded>
    </section>
  );
}
