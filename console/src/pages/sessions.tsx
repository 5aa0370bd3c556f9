// Sessions, live and past, the one with the newest event first.
import { time } from "../format";
import { positionOf, timeOf } from "../moments";
import { Filter } from "../parts/filter";
import { Find } from "../parts/find";
import { Empty, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link } from "../route";
import type { Page } from "../types";
import type { PageProps } from "./index";

const LIST_MS = 8_000;

export function Sessions({ place }: PageProps) {
  const { before = "", ...query } = place.query;
  // A position in the list is the time of the newest event, with `/`.
  const beforeMs = timeOf(positionOf(before, { isEnd: true }) ?? "");
  const after = query.after || (beforeMs ? `${beforeMs}/` : "");
  const reply = useReply<Page>("sessions", { count: "50", ...query, after }, LIST_MS);
  const text = (value: unknown) => String(value ?? "");
  return (
    <>
      <h1>Sessions</h1>
      <Find page="session" label="Session id" />
      <Filter
        place={place}
        fields={[
          { name: "tenant", label: "Tenant" },
          { name: "status", label: "Status", options: ["", "open", "closing", "closed"] },
          { name: "before", label: "Newest event before", isTime: true },
          { name: "cell", label: "Cell" },
        ]}
      />
      <Loaded reply={reply}>
        {({ items, next }) => (
          <>
            {items.length === 0 && <Empty>No session is in the log of this cell.</Empty>}
            {items.length > 0 && (
              <Table
                title="Sessions"
                rows={items}
                columns={[
                  { name: "Session", cell: (each) => <a href={link("session", each.id)}>{each.id}</a> },
                  { name: "Tenant", cell: (each) => text(each.tenant) },
                  { name: "Status", cell: (each) => text(each.record?.status ?? "open") },
                  {
                    name: "Languages",
                    cell: ({ record }) => record && `${record.source} → ${(record.targets as string[]).join(", ")}`,
                  },
                  { name: "Utterances", isNumber: true, cell: (each) => text(each.record?.utterance) },
                  { name: "Opened", isTime: true, cell: (each) => time(Number(each.record?.opened_ms ?? 0)) },
                  { name: "Newest event", isTime: true, cell: (each) => time(each.time_ms ?? 0) },
                ]}
              />
            )}
            <Pager place={place} next={next} />
          </>
        )}
      </Loaded>
    </>
  );
}
