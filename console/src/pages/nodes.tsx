// Nodes by capability class, with their load; an operator drains a node here. Apart from them those that are
// gone, with when and why.
import { duration, number, plural, time, ZONE } from "../format";
import { Act } from "../parts/act";
import { Find } from "../parts/find";
import { Empty, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link, type Place } from "../route";
import type { Cell, Item, NodeClass, NodeState, Page, Status } from "../types";
import type { PageProps } from "./index";
import { STATUS_MS } from "./overview";

/** Rows of a class: a page with thousands of rows answers no question. */
const SHOWN_MAX = { nodes: "50" };
/** Older nodes than that are said to be old. */
const RECENT_MS = 3_000;

/** Nodes that are gone are read this often: nobody waits for them. */
const GONE_MS = 10_000;
/** Why a node is gone, by the word of its record. */
const GONE_REASONS: Record<string, string> = {
  silent: "lost: no sign of life",
  superseded: "replaced: another process registered its name",
  drained: "drained: it left in order",
  retired: "retired: it did not come back, its record is deleted",
};

export function Nodes({ place, role }: PageProps) {
  const reply = useReply<Status>("status", SHOWN_MAX, STATUS_MS);
  return (
    <>
      <h1>Nodes</h1>
      <Find page="node" label="Node id" hint="c0.gpu-1" />
      <Loaded reply={reply}>
        {({ cells }) => (
          <>
            {cells.every((cell) => cell.classes.length === 0) && (
              <Empty>No node is registered: start one, and it appears here.</Empty>
            )}
            {cells
              .filter((cell) => cell.now_ms - cell.nodes_ms > RECENT_MS)
              .map((cell) => (
                <p class="dim" key={cell.cell}>
                  Nodes of cell {cell.cell} as of {time(cell.nodes_ms)}, {ZONE}: the more nodes, the less often they are read.
                </p>
              ))}
            {cells.flatMap((cell) =>
              cell.classes.map((each) => <ClassView cell={cell} nodeClass={each} role={role} key={cell.cell + each.id} />),
            )}
            {cells.map((cell) => (
              <Gone cell={cell.cell} place={place} isOneOfMany={cells.length > 1} key={cell.cell} />
            ))}
          </>
        )}
      </Loaded>
    </>
  );
}

/** The nodes of a cell that are gone, one page at a time: the address has the cell and the page. */
function Gone({ cell, place, isOneOfMany }: { cell: string; place: Place; isOneOfMany: boolean }) {
  const { cell: paged = cell, after = "" } = place.query;
  const query = { cell, status: "gone", count: SHOWN_MAX.nodes, after: paged === cell ? after : "" };
  const reply = useReply<Page>("nodes", query, GONE_MS);
  const text = ({ record }: Item, field: string) => String(record?.[field] ?? "");
  const goneMs = ({ record }: Item) => Number(record?.gone_ms ?? 0);
  // A count of 0 is left out; a record that is deleted has none.
  const count = ({ record }: Item, field: string) => (record?.reason === "retired" ? "–" : number(Number(record?.[field] ?? 0)));
  return (
    <section aria-label={`Gone, cell ${cell}`}>
      <h2>
        Gone {isOneOfMany && <span class="dim">cell {cell}</span>}
      </h2>
      <Loaded reply={reply}>
        {({ items, next }) => (
          <>
            {items.length === 0 && !next && <Empty>No node of the log is gone.</Empty>}
            {items.length > 0 && (
              <Table
                title={`${plural(items.length, "node")}${next || after ? " on this page" : ""}, the last to go first`}
                rows={[...items].sort((one, other) => goneMs(other) - goneMs(one))}
                columns={[
                  { name: "Node", cell: (each) => <a href={link("node", each.id)}>{each.id}</a> },
                  { name: "Gone", isTime: true, cell: (each) => time(goneMs(each), true) },
                  { name: "Why", isWrapped: true, cell: (each) => GONE_REASONS[text(each, "reason")] ?? text(each, "reason") },
                  { name: "Results", isNumber: true, cell: (each) => count(each, "results") },
                  { name: "Attempts without result", isNumber: true, cell: (each) => count(each, "ended") },
                  { name: "Version", cell: (each) => text(each, "version") },
                ]}
              />
            )}
            <Pager place={{ ...place, query: { ...place.query, cell, after: query.after } }} next={next} />
          </>
        )}
      </Loaded>
    </section>
  );
}

function ClassView({ cell, nodeClass, role }: { cell: Cell; nodeClass: NodeClass; role: string }) {
  const { sources, targets, features, suspended, nodes, nodes_total } = nodeClass;
  // Two classes of a cell differ in languages or features, so that each table has a name of its own.
  const abilities = [cell.cell, `${sources.join(", ")} → ${targets.join(", ")}`, ...features].join(", ");
  return (
    <section>
      <h2>
        {sources.join(", ")} → {targets.join(", ")} <span class="dim">cell {cell.cell}</span>
      </h2>
      {features.length > 0 && <p>Features: {features.join(", ")}</p>}
      {suspended.length > 0 && <p class="note error">Suspended for {suspended.join(", ")}.</p>}
      <Table
        title={`${abilities}: ${plural(nodes_total, "node")}${nodes_total > 1 ? ", those that drain, then the busiest" : ""}${nodes.length < nodes_total ? `: ${nodes.length} are shown` : ""}`}
        rows={nodes}
        idOf={(each) => each.node}
        columns={[
          { name: "Node", cell: (each) => <a href={link("node", each.node)}>{each.node}</a> },
          { name: "Status", cell: (each) => <StatusOf node={each} /> },
          { name: "Slots in use", isNumber: true, cell: (each) => `${number(each.leases)} of ${number(each.slots)}` },
          {
            name: "Use",
            cell: (each) => (
              <meter
                min={0}
                max={each.slots || 1}
                value={each.leases}
                aria-label={`Slots in use of ${each.node}`}
              />
            ),
          },
          { name: "Heartbeat", isNumber: true, cell: (each) => `${duration(each.heartbeat_age_ms)} ago` },
          { name: "Version", cell: (each) => each.version },
          {
            name: "Act",
            isShown: role === "operator",
            cell: (each) => <Act name="Drain" label={each.node} path={`nodes/${encodeURIComponent(each.node)}/drain`} />,
          },
        ]}
      />
    </section>
  );
}

function StatusOf({ node }: { node: NodeState }) {
  const { status, drained_by, drain_ends_ms } = node;
  if (status === "alive") return <>alive</>;
  return (
    <>
      <span class="badge">{status}</span>
      {drained_by && ` by ${drained_by}`}
      {drain_ends_ms > 0 && `, at most until ${time(drain_ends_ms)}, ${ZONE}`}
    </>
  );
}
