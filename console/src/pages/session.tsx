// One session: its timeline, the text in each language, its events, its state at a moment. What the
// address selects (an utterance, a job, an event) is shown beside them.
import { useEffect, useState } from "preact/hooks";
import { number, time, ZONE } from "../format";
import { useNews } from "../live";
import { timeOf } from "../moments";
import { Download } from "../parts/download";
import { Events } from "../parts/events";
import { Empty, ErrorNote, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { Selection } from "../parts/selection";
import { StateAt } from "../parts/state_at";
import { Transcript } from "../parts/transcript";
import { useReply } from "../reply";
import { link } from "../route";
import { Legend } from "../timeline/legend";
import { Picture, type Target } from "../timeline/picture";
import type { EventPage, Scene, State, Timeline } from "../types";
import type { PageProps } from "./index";

const EVENTS = "500";
const QUIET_MS = 1_000;

export function Session({ place, role }: PageProps) {
  const id = encodeURIComponent(place.id);
  const { after = "", at = "", job = "", event = "", utterance = "" } = place.query;
  const { news, isLive } = useNews((each) => each.session === place.id, place.id, QUIET_MS);
  const state = useReply<State>(`sessions/${id}`, {}, 0, news);
  // A page that ends before the newest event does not change.
  const [isPast, setPast] = useState({ timeline: false, events: false });
  const timeline = useReply<Timeline>(`sessions/${id}/scene`, { after }, 0, isPast.timeline ? 0 : news);
  const events = useReply<EventPage>("history", { session: place.id, after, count: EVENTS }, 0, isPast.events ? 0 : news);
  const isTimelinePast = Boolean(timeline.data?.next);
  const areEventsPast = Boolean(events.data?.next);
  useEffect(() => setPast({ timeline: isTimelinePast, events: areEventsPast }), [isTimelinePast, areEventsPast]);
  const hasSelection = Boolean(job || event);

  const { job: _, event: __, utterance: ___, ...rest } = place.query;
  const hrefOf = (target: Target) =>
    link("session", place.id, {
      ...rest,
      ...(target.job ? { job: target.job } : target.utterance >= 0 ? { utterance: String(target.utterance) } : {}),
      event: target.event,
    });
  const isSelected = (target: Target) =>
    job ? target.job === job : utterance ? target.utterance === Number(utterance) && !target.job : event !== "" && target.event === event;

  return (
    <>
      <h1>Session {place.id}</h1>
      <Loaded reply={state}>
        {({ view }) => (
          <p class="facts">
            <span class="badge">{String(view.status ?? "open")}</span> {String(view.source)} →{" "}
            {((view.targets as string[] | undefined) ?? []).join(", ")} · tenant {String(view.tenant)} · opened{" "}
            {time(Number(view.opened_ms), true)}, {ZONE} <span class={isLive ? "badge good" : "badge"}>{isLive ? "live" : "not live"}</span>
            {role !== "viewer" && (
              <Download text="Prove it: a report with proofs" path={`sessions/${id}/report`} file={`${place.id}.html`} />
            )}
          </p>
        )}
      </Loaded>
      <div class={hasSelection ? "beside" : ""}>
        <div>
          {timeline.error && timeline.error.status !== state.error?.status && <ErrorNote error={timeline.error} />}
          {timeline.data && <Drawn {...timeline.data} isSelected={isSelected} hrefOf={hrefOf} atMs={at ? timeOf(at) : 0} />}
          {events.data && <Transcript events={events.data.events} place={place} />}
        </div>
        {hasSelection && <Selection place={place} scene={timeline.data?.scene ?? null} news={news} />}
      </div>
      {events.data && (
        <>
          <StateAt place={place} events={events.data.events} />
          <Events events={events.data.events} />
          <Pager place={place} next={events.data.next} />
        </>
      )}
    </>
  );
}

interface DrawnProps extends Timeline {
  isSelected: (target: Target) => boolean;
  hrefOf: (target: Target) => string;
  atMs: number;
}

function Drawn({ scene, next, ...props }: DrawnProps) {
  if (!scene.session) return <Empty>No further events: the timeline ends before this page.</Empty>;
  return (
    <>
      <Picture scene={scene} {...props} />
      <Legend scene={scene as Scene} />
      {(next || scene.is_cut) && (
        <p class="dim">
          The timeline shows {number(scene.spans.length)} parts from the first event of this page on. Later pages show the rest.
        </p>
      )}
    </>
  );
}
