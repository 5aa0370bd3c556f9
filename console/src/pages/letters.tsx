// Dead letters: entries that could not be processed; an operator retries or discards them, one by one or
// all that are shown. In a row, the keys r and d open the form of its acts, and the arrows move.
import { useState } from "preact/hooks";
import { msOf, number, plural, time } from "../format";
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
/** Why a dead letter stays, by the outcome of an act, and what to do. */
const STAYS: Record<string, string> = {
  partial: "processed partially; run `eventsched verify`, then retry with `eventsched dead-letters retry --force`",
  projection: "the read model was not rebuilt since; mend and rebuild it, then retry, or discard",
  unreadable: "this version cannot read it; a later one may",
  work: "it is work that is not done; retry it",
  unknown: "it was retried or discarded meanwhile",
};
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
            {role === "operator" && <Portion letters={dead_letters} match={place.query.match ?? ""} />}
            {dead_letters.length > 0 && (
              <Table
                title="Dead letters, oldest first"
                rows={dead_letters}
                idOf={(each) => each.id}
                columns={[
                  {
                    name: "Time",
                    isTime: true,
                    cell: (each) => (
                      <>
                        {time(msOf(each.id.split("/")[1]!), true)}
                        <br />
                        <code class="dim">{each.id}</code>
                      </>
                    ),
                  },
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

/** Acts on all dead letters that the page shows: they are of one cell. The outcome stays when they are gone. */
function Portion({ letters, match }: { letters: Letter[]; match: string }) {
  const [outcome, setOutcome] = useState("");
  const cell = letters[0]?.id.split("/")[0] ?? "";
  const body = { ids: letters.map((each) => each.id.split("/")[1]), chosen_by: match && `match ${match}`.slice(0, 100) };
  const count = `the ${number(letters.length)} shown`;
  const acts = [
    { name: `Retry ${count}`, path: `dead-letters/${cell}/retry` },
    { name: `Discard ${count}`, path: `dead-letters/${cell}/discard` },
  ];
  return (
    <>
      {letters.length > 1 && (
        <p class="acts">
          {acts.map((act) => (
            <Act {...act} label={match} body={body} outcomeOf={outcomeOf} onOutcome={setOutcome} key={act.path} />
          ))}
        </p>
      )}
      <p role="status">{outcome}</p>
    </>
  );
}

/** What an act did with the dead letters: how many are done, and why the others stay. */
function outcomeOf({ outcomes }: { outcomes: { outcome: string }[] }): string {
  const left = outcomes.map(({ outcome }) => outcome).filter((outcome) => outcome in STAYS);
  const stays = [...new Set(left)].map((word) => {
    const count = left.filter((each) => each === word).length;
    return `${plural(count, "dead letter")} left: ${STAYS[word]}`;
  });
  return [`${number(outcomes.length - left.length)} of ${plural(outcomes.length, "dead letter")} done`, ...stays].join(". ") + ".";
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
