// Jobs that wait for a node: by requirement with the reason, then one by one.
import { duration, number, time } from "../format";
import { meaningOf } from "../meanings";
import { Filter } from "../parts/filter";
import { Empty, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link } from "../route";
import type { Page, Status } from "../types";
import type { PageProps } from "./index";
import { NO_NODES, STATUS_MS } from "./overview";

const LIST_MS = 4_000;
export function Waiting({ place }: PageProps) {
  const status = useReply<Status>("status", NO_NODES, STATUS_MS);
  const jobs = useReply<Page>("jobs", { count: "50", ...place.query }, LIST_MS);
  return (
    <>
      <h1>Waiting</h1>
      <Loaded reply={status}>
        {({ cells }) => {
          const rows = cells.flatMap((cell) => cell.waiting.map((each) => ({ cell: cell.cell, ...each })));
          if (!rows.length) return <Empty>No job waits: every job has a node.</Empty>;
          return (
            <Table
              title="By requirement"
              rows={rows}
              columns={[
                { name: "Cell", cell: (each) => each.cell },
                { name: "Languages", cell: (each) => `${each.source} → ${each.target}` },
                { name: "Features", cell: (each) => each.features.join(", ") },
                { name: "Jobs", isNumber: true, cell: (each) => number(each.jobs) },
                { name: "Oldest", isNumber: true, cell: (each) => duration(each.oldest_ms) },
                {
                  name: "Reason",
                  cell: (each) => (
                    <>
                      <code>{each.reason}</code> {meaningOf(each.reason)}
                    </>
                  ),
                },
              ]}
            />
          );
        }}
      </Loaded>
      <Filter place={place} fields={[{ name: "tenant", label: "Tenant" }, { name: "cell", label: "Cell" }]} />
      <Loaded reply={jobs}>
        {({ items, next }) => (
          <>
            {items.length > 0 && (
              <Table
                title="Jobs, in the order of their turn"
                rows={items}
                columns={[
                  { name: "Job", cell: (each) => <a href={link("job", each.id)}>{each.id}</a> },
                  { name: "Tenant", cell: (each) => each.tenant },
                  { name: "Created", isTime: true, cell: (each) => time(Number(each.record?.created_ms ?? 0)) },
                  { name: "Reason", cell: (each) => <code>{String(each.record?.reason ?? "")}</code> },
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
