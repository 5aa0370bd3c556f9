// Nodes by capability class, with their load; an operator drains a node here.
import { duration, number, plural, time, ZONE } from "../format";
import { Act } from "../parts/act";
import { Find } from "../parts/find";
import { Empty, Loaded } from "../parts/notes";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link } from "../route";
import type { Cell, NodeClass, NodeState, Status } from "../types";
import type { PageProps } from "./index";
import { STATUS_MS } from "./overview";

/** Rows of a class: a page with thousands of rows answers no question. */
const SHOWN_MAX = { nodes: "50" };
/** Older nodes than that are said to be old. */
const RECENT_MS = 3_000;

export function Nodes({ role }: PageProps) {
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
          </>
        )}
      </Loaded>
    </>
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
