// Projections and roles: who runs them, and how far they lag.
import { duration, number, time } from "../format";
import { Act } from "../parts/act";
import { Empty, Loaded } from "../parts/notes";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import type { Status } from "../types";
import type { PageProps } from "./index";
import { NO_NODES, STATUS_MS } from "./overview";

interface ReadModel {
  cell: string;
  name: string;
  projection_set: string;
  revision: string;
  checkpoint: string;
}

export function Projections({ role }: PageProps) {
  const models = useReply<ReadModel[]>("projections", {}, STATUS_MS);
  const reply = useReply<Status>("status", NO_NODES, STATUS_MS);
  return (
    <>
      <h1>Projections and roles</h1>
      {models.data && (
        <Table
          title="Read models"
          rows={models.data}
          columns={[
            { name: "Read model", cell: (each) => each.name },
            { name: "Cell", cell: (each) => each.cell },
            { name: "Set", cell: (each) => each.projection_set },
            { name: "Live revision", cell: (each) => each.revision },
            { name: "Checkpoint", cell: (each) => <code>{each.checkpoint}</code> },
            {
              name: "Act",
              isShown: role === "operator",
              cell: (each) => (
                <Act name="Rebuild" label={each.name} path="rebuild" body={{ read_models: [each.name] }} isLong />
              ),
            },
          ]}
        />
      )}
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
                    { name: "Since", isTime: true, cell: (each) => time(each.since_ms) },
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
