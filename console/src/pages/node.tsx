// One node: its record and its events.
import { useNews } from "../live";
import { Events } from "../parts/events";
import { Fields } from "../parts/fields";
import { Empty, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { useReply } from "../reply";
import type { EventPage, State } from "../types";
import type { PageProps } from "./index";

const LIVE_MS = 10_000;
const QUIET_MS = 3_000;

export function Node({ place }: PageProps) {
  const { news } = useNews((event) => event.node === place.id, place.id, QUIET_MS);
  const state = useReply<State>(`nodes/${encodeURIComponent(place.id)}`, {}, LIVE_MS, news);
  const { after = "" } = place.query;
  const events = useReply<EventPage>("history", { node: place.id, after, count: "500" }, 0, news);
  return (
    <>
      <h1>Node {place.id}</h1>
      <Loaded reply={state}>
        {({ view }) => (
          <details>
            <summary>
              <span class="badge">{String(view.status ?? "live")}</span> The record of the node
            </summary>
            <Fields record={view} />
          </details>
        )}
      </Loaded>
      <Loaded reply={events}>
        {(page) => (
          <>
            {page.events.length === 0 && <Empty>This part of the log has no event of the node.</Empty>}
            {page.events.length > 0 && <Events events={page.events} />}
            <Pager place={place} next={page.next} />
          </>
        )}
      </Loaded>
    </>
  );
}
