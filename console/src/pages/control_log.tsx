// The control log: what operators did, when and why, from the events of the log.
import { useEffect, useState } from "preact/hooks";
import { ApiError, get } from "../api";
import { number, plural, time, msOf } from "../format";
import { follow } from "../live";
import { Filter } from "../parts/filter";
import { Empty, ErrorNote } from "../parts/notes";
import { Table } from "../parts/table";
import { link } from "../route";
import type { EventPage, LogEvent } from "../types";
import type { PageProps } from "./index";

const SHOWN_MAX = 500;
const SINCE_MS: Record<string, number> = { hour: 3_600_000, day: 86_400_000, week: 604_800_000 };
/** Type of an event -> what the operator did. */
const ACTS: Record<string, (event: LogEvent) => string> = {
  DeadLettersRetried: ({ data }) => `retried ${plural(Number(data.count), "dead letter")}${lettersOf(data)}${chosen(data)}`,
  DeadLettersDiscarded: ({ data }) => `discarded ${plural(Number(data.count), "dead letter")}${lettersOf(data)}${chosen(data)}`,
  RebuildStarted: ({ data }) => `started a rebuild of ${revisions(data)}`,
  RebuildPromoted: ({ data }) => `made ${revisions(data)} live, from ${number(Number(data.entries))} entries`,
  NodeDraining: ({ node }) => `drains ${node}`,
  ConsumerGroupDropped: ({ data }) => `dropped the consumer group ${String(data.group)}`,
  CellRepaired: ({ data }) => `repaired ${String(data.where)}: ${String(data.what)}`,
  ArchiveAbandoned: ({ data }) => `abandoned the archive ${String(data.of)}`,
  ArchiveSetAside: ({ data }) => `set ${plural(Number(data.segments), "segment")} of the archive aside`,
};

const lettersOf = ({ first, last }: Record<string, unknown>) => (first === last ? ` ${first}` : `, ${first} to ${last}`);
const chosen = (data: Record<string, unknown>) => (data.filter ? ` (${String(data.filter)})` : "");
const revisions = (data: Record<string, unknown>) =>
  (data.revisions as { projection: string; revision: string }[]).map((each) => `${each.projection} ${each.revision}`).join(", ");
/** A node that drains by itself is no act of an operator. */
const isAct = (event: LogEvent) => event.type in ACTS && Boolean(event.data.by);

interface Acts {
  events: LogEvent[];
  isWhole: boolean;
  isLive: boolean;
  error: ApiError | null;
}

/** Read the acts since a time by pages, and add new ones as they happen. */
function useActs(since: string, type: string): Acts {
  const [acts, setActs] = useState<Acts>({ events: [], isWhole: false, isLive: false, error: null });
  useEffect(() => {
    let hasEnded = false;
    const byId = new Map<string, LogEvent>();
    const add = (events: LogEvent[], more: Partial<Acts>) => {
      if (hasEnded) return;
      for (const event of events) if (isAct(event) && (!type || event.type === type)) byId.set(event.id, event);
      const newest = [...byId.values()].sort((a, b) => msOf(b.id) - msOf(a.id)).slice(0, SHOWN_MAX);
      setActs((last) => ({ ...last, ...more, events: newest }));
    };
    const read = async () => {
      const from = since in SINCE_MS ? new Date(Date.now() - SINCE_MS[since]!).toISOString() : "";
      const query = new URLSearchParams({ count: "500", since: from });
      for (const each of type ? [type] : Object.keys(ACTS)) query.append("type", each);
      let after = "";
      do {
        if (after) query.set("after", after);
        const page = await get<EventPage>(`history?${query}`);
        after = page.next;
        add(page.events, { isWhole: !after, error: null });
      } while (after && !hasEnded);
    };
    setActs({ events: [], isWhole: false, isLive: false, error: null });
    const tryRead = () => read().catch((error) => add([], { error: error as ApiError }));
    let hasOpened = false;
    const end = follow(
      (event) => add([event], {}),
      (isLive) => {
        add([], { isLive });
        if (isLive && hasOpened) void tryRead(); // something may have happened while the page was hidden
        hasOpened ||= isLive;
      },
    );
    void tryRead();
    return () => {
      hasEnded = true;
      end();
    };
  }, [since, type]);
  return acts;
}

export function ControlLog({ place, tenant }: PageProps) {
  const { since = "week", type = "", by = "" } = place.query;
  const { events, isWhole, isLive, error } = useActs(since, type);
  const shown = events.filter((event) => String(event.data.by).includes(by));
  return (
    <>
      <h1>
        Control log <span class={isLive ? "badge good" : "badge"}>{isLive ? "live" : "not connected"}</span>
      </h1>
      {tenant !== "*" && <p class="note">These acts concern the whole system: a token for {tenant} sees none of them.</p>}
      <Filter
        place={place}
        fields={[
          { name: "since", label: "Since", options: ["week", "day", "hour", "beginning"] },
          { name: "type", label: "Event", options: ["", ...Object.keys(ACTS)] },
          { name: "by", label: "By" },
        ]}
      />
      {error && <ErrorNote error={error} />}
      {!error && !isWhole && <p class={shown.length ? "dim" : "note loading"}>Reading the log …</p>}
      {isWhole && shown.length === 0 && <Empty>{type || by ? "No such act in this time." : "No act of an operator in this time."}</Empty>}
      {shown.length > 0 && (
        <Table
          title="Acts of operators, newest first"
          rows={shown}
          columns={[
            { name: "Time", isTime: true, cell: (each) => time(msOf(each.id), true) },
            { name: "By", cell: (each) => String(each.data.by) },
            { name: "Act", isWrapped: true, cell: (each) => ACTS[each.type]!(each) },
            { name: "Reason", isWrapped: true, cell: (each) => String(each.data.why) },
            {
              name: "Event",
              cell: (each) => (
                <>
                  {each.node ? <a href={link("node", each.node)}>{each.type}</a> : each.type}
                  <br />
                  <code class="dim">{each.id}</code>
                </>
              ),
            },
          ]}
        />
      )}
    </>
  );
}
