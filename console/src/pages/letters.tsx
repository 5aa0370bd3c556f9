// Dead letters: entries that could not be processed; an operator retries or discards them.
import { Act } from "../parts/act";
import { Filter } from "../parts/filter";
import { Empty, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import type { LetterPage } from "../types";
import type { PageProps } from "./index";

const LIST_MS = 3_000;

export function Letters({ place, role }: PageProps) {
  const reply = useReply<LetterPage>("dead-letters", { count: "50", ...place.query }, LIST_MS);
  const path = (id: string, verb: string) => `dead-letters/${id}/${verb}`;
  return (
    <>
      <h1>Dead letters</h1>
      <Filter place={place} fields={[{ name: "cell", label: "Cell" }]} />
      <Loaded reply={reply}>
        {({ dead_letters, next }) => (
          <>
            {dead_letters.length === 0 && <Empty>No dead letters: every entry was processed.</Empty>}
            {dead_letters.length > 0 && (
              <Table
                title="Dead letters, oldest first"
                rows={dead_letters}
                columns={[
                  { name: "Id", cell: (each) => <code>{each.id}</code> },
                  { name: "Kind", cell: (each) => each.kind },
                  { name: "From", cell: (each) => `${each.source} ${each.source_id}` },
                  {
                    name: "Reason",
                    cell: (each) => (
                      <>
                        {each.reason} {each.partial && <span class="badge bad">processed partially</span>}
                      </>
                    ),
                  },
                  { name: "Data", cell: (each) => <code>{each.data.slice(0, 60)}</code> },
                  {
                    name: "Act",
                    isShown: role === "operator",
                    cell: (each) => (
                      <>
                        <Act name="Retry" label={each.id} path={path(each.id, "retry")} />
                        <Act name="Discard" label={each.id} path={path(each.id, "discard")} />
                      </>
                    ),
                  },
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
