// Overview: what is wrong, what happens now, and the load of each cell.
import { duration, number, plural } from "../format";
import { Empty, Loaded } from "../parts/notes";
import { Rates } from "../parts/rates";
import { Table } from "../parts/table";
import { problemsOf } from "../problems";
import { useReply } from "../reply";
import { link } from "../route";
import type { Cell, Status } from "../types";

export const STATUS_MS = 2_000;
/** A status without the nodes of each class: their numbers are in it. */
export const NO_NODES = { nodes: "0" };

export function Overview() {
  const reply = useReply<Status>("status", NO_NODES, STATUS_MS);
  return (
    <>
      <h1>Overview</h1>
      <Loaded reply={reply}>
        {(status) => (
          <>
            <Problems status={status} />
            <p>
              <a href={link("history", "", { about: "what went wrong", since: "day" })}>What went wrong in the last 24 hours</a>
            </p>
            <Rates />
            {status.cells.map((cell) => (
              <CellView cell={cell} key={cell.cell} />
            ))}
            <p class="dim">{status.server}</p>
          </>
        )}
      </Loaded>
    </>
  );
}

function Problems({ status }: { status: Status }) {
  const problems = problemsOf(status);
  if (!problems.length) return <p class="note good">Nothing needs an act.</p>;
  return (
    <section class="note error" aria-label="Problems">
      <strong>{plural(problems.length, "problem")}</strong>
      <ul>
        {problems.map(({ text, href }) => (
          <li key={text}>{href ? <a href={href}>{text}</a> : text}</li>
        ))}
      </ul>
    </section>
  );
}

function CellView({ cell }: { cell: Cell }) {
  const sum = (field: "nodes_total" | "slots" | "leases") => cell.classes.reduce((total, each) => total + each[field], 0);
  const nodes = sum("nodes_total");
  const waiting = cell.waiting.reduce((sum, each) => sum + each.jobs, 0);
  return (
    <section aria-label={`Cell ${cell.cell}`}>
      <h2>Cell {cell.cell}</h2>
      <dl class="tiles">
        <Tile name="Waiting jobs" value={number(waiting)} />
        <Tile name="Slots in use" value={`${number(sum("leases"))} of ${number(sum("slots"))}`} />
        <Tile name="Nodes" value={number(nodes)} />
        <Tile name="Dead letters" value={number(cell.dead_letters)} />
        <Tile name="Log entries" value={number(cell.log_entries)} />
      </dl>
      {cell.waiting.length > 0 && (
        <Table
          title="Waiting jobs"
          rows={cell.waiting}
          columns={[
            { name: "Languages", cell: (each) => `${each.source} → ${each.target}` },
            { name: "Features", cell: (each) => each.features.join(", ") },
            { name: "Jobs", isNumber: true, cell: (each) => number(each.jobs) },
            { name: "Oldest", isNumber: true, cell: (each) => duration(each.oldest_ms) },
            { name: "Reason", cell: (each) => <code>{each.reason}</code> },
          ]}
        />
      )}
      <Table
        title="Consumers"
        rows={cell.consumers}
        columns={[
          { name: "Consumer", cell: (each) => each.consumer },
          { name: "Lag", isNumber: true, cell: (each) => number(each.lag) },
          { name: "Oldest", isNumber: true, cell: (each) => duration(each.oldest_ms) },
          { name: "Running", cell: (each) => (each.is_running ? "yes" : "no") },
        ]}
      />
      {nodes === 0 && <Empty>No node is registered: start one with `eventsched run`.</Empty>}
    </section>
  );
}

function Tile({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
