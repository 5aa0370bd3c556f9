// Dead letters: entries that could not be processed; an operator retries or discards them, one by one or
// all that are shown. In a row, the keys r and d open the form of its acts, and the arrows move.
import { number, plural } from "../format";
import { Act } from "../parts/act";
import { Filter } from "../parts/filter";
import { Empty, Loaded } from "../parts/notes";
import { Pager } from "../parts/pager";
import { Table } from "../parts/table";
import { useReply } from "../reply";
import { link } from "../route";
import type { Letter, LetterPage } from "../types";
import type { PageProps } from "./index";

const LIST_MS = 3_000;
const ACT_OF_KEY: Record<string, string> = { r: "Retry", d: "Discard" };

export function Letters({ place, role }: PageProps) {
  const reply = useReply<LetterPage>("dead-letters", { count: "50", ...place.query }, LIST_MS);
  const path = (id: string, verb: string) => `dead-letters/${id}/${verb}`;
  return (
    <>
      <h1>Dead letters</h1>
      <p>
        The <a href={link("control-log")}>control log</a> has what operators retried and discarded, and why.
      </p>
      <Filter place={place} fields={[{ name: "match", label: "Text in kind, entry or reason" }, { name: "cell", label: "Cell" }]} />
      <Loaded reply={reply}>
        {({ dead_letters, next }) => (
          <div onKeyDown={onKey}>
            {dead_letters.length === 0 && !next && (
              <Empty>{place.query.match ? "No dead letter has this text." : "No dead letters: every entry was processed."}</Empty>
            )}
            {role === "operator" && dead_letters.length > 0 && (
              <p class="dim">With the focus on a button of a row, the key r retries, d discards, and the arrows move.</p>
            )}
            {role === "operator" && dead_letters.length > 1 && <Portion letters={dead_letters} match={place.query.match ?? ""} />}
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
                    isWrapped: true,
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
                      <span class="acts">
                        <Act name="Retry" label={each.id} path={path(each.id, "retry")} />
                        <Act name="Discard" label={each.id} path={path(each.id, "discard")} />
                      </span>
                    ),
                  },
                ]}
              />
            )}
            <Pager place={place} next={next} />
          </div>
        )}
      </Loaded>
    </>
  );
}

/** Acts on all dead letters that the page shows: they are of one cell. */
function Portion({ letters, match }: { letters: Letter[]; match: string }) {
  const cell = letters[0]!.id.split("/")[0]!;
  const body = { ids: letters.map((each) => each.id.split("/")[1]), chosen_by: match && `match ${match}`.slice(0, 100) };
  const outcomeOf = (reply: { outcomes: { outcome: string }[] }) => {
    const left = reply.outcomes.filter(({ outcome }) => !["retried", "removed", "discarded"].includes(outcome));
    return left.length ? `${plural(left.length, "dead letter")} left: ${[...new Set(left.map((each) => each.outcome))].join(", ")}` : "done";
  };
  const count = `the ${number(letters.length)} shown`;
  return (
    <p class="acts">
      <Act name={`Retry ${count}`} label={match} path={`dead-letters/${cell}/retry`} body={body} outcomeOf={outcomeOf} />
      <Act name={`Discard ${count}`} label={match} path={`dead-letters/${cell}/discard`} body={body} outcomeOf={outcomeOf} />
    </p>
  );
}

/** The keys count while a button of a row has the focus, so that they disturb no field and no reader. */
function onKey(event: KeyboardEvent) {
  const button = event.target as HTMLElement;
  const row = button.closest("tbody tr");
  if (!row || button.tagName !== "BUTTON" || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
  const name = ACT_OF_KEY[event.key];
  if (step) step.querySelector("button")?.focus();
  else if (name) [...row.querySelectorAll("button")].find((each) => each.textContent === name)?.click();
  else return;
  event.preventDefault();
}
