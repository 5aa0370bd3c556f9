// What was said, by utterance and language; each text is a link to the events of its job.
import { Empty } from "./notes";
import { link, type Place } from "../route";
import type { LogEvent } from "../types";

/** The target language of a job, a part of its key. */
const targetOf = (job: string) => job.split(":")[4]!;

export function Transcript({ events, place }: { events: LogEvent[]; place: Place }) {
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
      <table role="table" class="transcript">
        <caption>Transcript: select a text to see how it came about</caption>
        <thead>
          <tr role="row">
            <th role="columnheader" scope="col">Utterance</th>
            <th role="columnheader" scope="col">spoken</th>
            {targets.map((target) => (
              <th role="columnheader" scope="col" key={target}>
                {target}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {[...utterances].map(([utterance, byTarget]) => (
            <tr role="row" key={utterance}>
              <th role="rowheader" scope="row" data-label="Utterance">{utterance}</th>
              <td role="cell" data-label="spoken" class="wrap">{[...byTarget.values()].find((each) => each.text?.source_text)?.text?.source_text}</td>
              {targets.map((target) => (
                <td role="cell" data-label={target} class="wrap" key={target}>
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
  const { utterance: _, ...query } = place.query;
  return (
    <a href={link("session", place.id, { ...query, job: event.job, event: event.id })} aria-current={isSelected || undefined}>
      {text}
    </a>
  );
}
