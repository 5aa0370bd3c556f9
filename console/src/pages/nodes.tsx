// Nodes by capability class, with their load; an operator drains a node here.
import { duration, number, plural } from "../format";
import { Act } from "../parts/act";
import { Empty, Loaded } from "../parts/notes";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link } from "../route";
import type { Cell, NodeClass, Status } from "../types";
import type { PageProps } from "./index";
import { STATUS_MS } from "./overview";

/** Rows of a class. */
const SHOWN_MAX = 100;

export function Nodes({ role }: PageProps) {
  const reply = useReply<Status>("status", {}, STATUS_MS);
  return (
    <>
      <h1>Nodes</h1>
      <Loaded reply={reply}>
        {({ cells }) => (
          <>
            {cells.every((cell) => cell.classes.length === 0) && (
              <Empty>No node is registered: start one, and it appears here.</Empty>
            )}
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
  const { sources, targets, features, suspended } = nodeClass;
  // The busiest first: a page with thousands of rows answers no question.
  const nodes = [...nodeClass.nodes].sort((a, b) => b.leases / b.slots - a.leases / a.slots).slice(0, SHOWN_MAX);
  return (
    <section>
      <h2>
        {sources.join(", ")} → {targets.join(", ")} <span class="dim">cell {cell.cell}</span>
      </h2>
      {features.length > 0 && <p>Features: {features.join(", ")}</p>}
      {suspended.length > 0 && <p class="note error">Suspended for {suspended.join(", ")}.</p>}
      <Table
        title={`${plural(nodeClass.nodes.length, "node")}, the busiest first${nodes.length < nodeClass.nodes.length ? `: ${nodes.length} are shown` : ""}`}
        rows={nodes}
        columns={[
          { name: "Node", cell: (each) => <a href={link("node", each.node)}>{each.node}</a> },
          { name: "Status", cell: (each) => each.status },
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
