// The history of the whole system: which events, of what, when. It answers what went wrong on a day.
import { useEffect, useState } from "preact/hooks";
import { ApiError, get } from "../api";
import { number } from "../format";
import { positionOf } from "../moments";
import { Events } from "../parts/events";
import { Filter } from "../parts/filter";
import { Empty, ErrorNote } from "../parts/notes";
import { link, type Place } from "../route";
import type { EventPage, LogEvent } from "../types";
import type { PageProps } from "./index";

const SHOWN_MAX = 200;
const SINCE_MS: Record<string, number> = { hour: 3_600_000, day: 86_400_000, week: 604_800_000 };
/** What a reader looks for -> the types of its events. */
const TOPICS: Record<string, string[]> = {
  "what went wrong": [
    "JobFailed", "ResultMissing", "AttemptEnded", "ResultRefused", "NodeLost", "NodeSuspended", "BackpressureStarted", "ClockAdjusted",
  ],
  "attempts that ended": ["AttemptEnded"],
  "nodes that came and went": [
    "NodeRegistered", "NodeDraining", "NodeDrained", "NodeLost", "NodeRetired", "NodeSuspended", "NodeResumed",
  ],
  "sessions": ["SessionOpened", "SessionClosing", "SessionClosed"],
  "everything": [],
};

interface Found {
  events: LogEvent[];
  next: string;
  isReading: boolean;
  error: ApiError | null;
}

/** Read pages until there is enough to show: a page may have no event of the kind, and go on. */
function useEvents(query: Place["query"]): Found {
  const [found, setFound] = useState<Found>({ events: [], next: "", isReading: true, error: null });
  const key = JSON.stringify(query);
  useEffect(() => {
    let hasEnded = false;
    const read = async () => {
      const { about = "what went wrong", since = "day", until = "", of = "", tenant = "", after = "" } = query;
      const from = since in SINCE_MS ? new Date(Date.now() - SINCE_MS[since]!).toISOString() : since === "beginning" ? "" : since;
      const asked = new URLSearchParams({ count: String(SHOWN_MAX) });
      const kind = /^[^:]*:[^:]*:/.test(of) ? "job" : of.includes("/") ? "group" : "session";
      const named = { since: positionOf(from) ?? from, until: positionOf(until, { isEnd: true }) ?? until, tenant, [query.node ? "node" : kind]: query.node || of };
      for (const [name, value] of Object.entries(named)) if (value) asked.set(name, value);
      for (const type of TOPICS[about] ?? [about]) asked.append("type", type);
      let events: LogEvent[] = [];
      let next = after;
      do {
        if (next) asked.set("after", next);
        const page = await get<EventPage>(`history?${asked}`);
        events = [...events, ...page.events];
        next = page.next;
        if (hasEnded) return;
        setFound({ events, next, isReading: Boolean(next) && events.length < SHOWN_MAX, error: null });
      } while (next && events.length < SHOWN_MAX);
    };
    setFound({ events: [], next: "", isReading: true, error: null });
    read().catch((error) => hasEnded || setFound((last) => ({ ...last, isReading: false, error: error as ApiError })));
    return () => {
      hasEnded = true;
    };
  }, [key]);
  return found;
}

export function History({ place }: PageProps) {
  const { events, next, isReading, error } = useEvents(place.query);
  return (
    <>
      <h1>History</h1>
      <Filter
        place={place}
        fields={[
          { name: "about", label: "About", options: Object.keys(TOPICS) },
          { name: "since", label: "Since", options: ["day", "hour", "week", "beginning"] },
          { name: "until", label: "Until", isTime: true },
          { name: "of", label: "Session or job" },
          { name: "node", label: "Node" },
          { name: "tenant", label: "Tenant" },
        ]}
      />
      {error && <ErrorNote error={error} />}
      {isReading && <p class={events.length ? "dim" : "note loading"}>Reading the log …</p>}
      {!isReading && !error && events.length === 0 && <Empty>No such event in this time.</Empty>}
      {events.length > 0 && <Events events={events} hasSessions />}
      {next && !isReading && (
        <nav class="pager" aria-label="Pages of the list">
          <a href={link("history", "", { ...place.query, after: next })}>The next {number(SHOWN_MAX)} events</a>
        </nav>
      )}
    </>
  );
}
