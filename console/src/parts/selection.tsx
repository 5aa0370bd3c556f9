// What the address selects in a session: an utterance or a job with its audio, reasons and events.
import { EventList } from "./event_list";
import { Loaded } from "./notes";
import { Player } from "./player";
import { Reasons } from "./reasons";
import { useReply } from "../reply";
import { link, type Place } from "../route";
import type { EventPage, Scene } from "../types";

export function Selection({ place, scene, news }: { place: Place; scene: Scene | null; news: number }) {
  const { job = "", event = "", utterance = "", ...rest } = place.query;
  const query: Record<string, string> = job
    ? { job, count: "200" }
    : { session: place.id, since: event, until: event };
  const events = useReply<EventPage>(job || event ? "history" : "", query, 0, news);
  const number = job ? job.split(":")[2]! : utterance;
  const spans = (scene?.spans ?? []).filter((span) => number !== "" && String(span.utterance) === number);
  const finalized = spans.find((span) => span.kind === "utterance")?.event ?? "";
  const jobs = [...new Set(spans.map((span) => span.job || span.chain).filter(Boolean))];
  const at = (more: Record<string, string>) => link("session", place.id, { ...rest, ...more });
  return (
    <section class="selection" aria-label="Selection">
      <h2>{job ? `Utterance ${number} → ${job.split(":")[4]}` : number ? `Utterance ${number}` : "One event"}</h2>
      <p>
        <a href={at({})}>Close the selection</a>
        {number && finalized && (
          <>
            {" · "}
            <a href={at({ utterance: number, event: finalized })}>the utterance</a>
          </>
        )}
        {jobs.map((each) => (
          <>
            {" · "}
            <a href={at({ job: each })} aria-current={each === job || undefined}>
              {each.split(":")[4]}
            </a>
          </>
        ))}
      </p>
      {finalized && <Player key={finalized} session={place.id} event={finalized} />}
      {job && <Reasons job={job} news={news} />}
      <Loaded reply={events}>
        {(page) => (
          <EventList events={page.events} selected={event} hrefOf={(id) => at(job ? { job, event: id } : { utterance, event: id })} />
        )}
      </Loaded>
    </section>
  );
}
