// Projections and roles: who runs them, and how far they lag.
import { duration, number, time } from "../format";
import { Empty, Loaded } from "../parts/notes";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import type { Status } from "../types";
import { STATUS_MS } from "./overview";

export function Projections() {
  const reply = useReply<Status>("status", {}, STATUS_MS);
  return (
    <>
      <h1>Projections and roles</h1>
      <Loaded reply={reply}>
        {({ cells }) => (
          <>
            {cells.length === 0 && <Empty>This gateway serves no cell.</Empty>}
            {cells.map((cell) => (
              <section key={cell.cell}>
                <h2>Cell {cell.cell}</h2>
                <Table
                  title="Consumers"
                  rows={cell.consumers}
                  columns={[
                    { name: "Consumer", cell: (each) => each.consumer },
                    { name: "Stream", cell: (each) => each.stream },
                    { name: "Lag", isNumber: true, cell: (each) => number(each.lag) },
                    { name: "Oldest", isNumber: true, cell: (each) => duration(each.oldest_ms) },
                    { name: "Running", cell: (each) => (each.is_running ? "yes" : "no") },
                  ]}
                />
                <Table
                  title="Roles"
                  rows={cell.roles}
                  columns={[
                    { name: "Role", cell: (each) => `${each.role} ${each.projection_set}` },
                    { name: "Running", isNumber: true, cell: (each) => number(each.running) },
                    { name: "Failing", isNumber: true, cell: (each) => number(each.failing) },
                    { name: "Standbys", isNumber: true, cell: (each) => number(each.standbys) },
                    { name: "Owner", cell: (each) => <code>{each.owner}</code> },
                    { name: "Since", cell: (each) => time(each.since_ms) },
                    { name: "Error", cell: (each) => each.error },
                  ]}
                />
              </section>
            ))}
          </>
        )}
      </Loaded>
    </>
  );
}
