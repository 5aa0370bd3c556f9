// SQL over the archive, with statements that answer common questions.
import { useState } from "preact/hooks";
import { ApiError, post } from "../api";
import { number } from "../format";
import { Empty, ErrorNote } from "./notes";
import { Table } from "./table";

type Row = Record<string, unknown>;

const READY: { question: string; sql: string }[] = [
  {
    question: "Which sessions missed outcomes, and why?",
    sql: `SELECT session, any_value(s.tenant) AS tenant,
       count(*) FILTER (outcome = 'missing') AS missing,
       count(*) FILTER (outcome = 'failed') AS failed,
       string_agg(DISTINCT code, ', ') AS codes
FROM jobs JOIN sessions s USING (session)
WHERE outcome IN ('missing', 'failed') GROUP BY session ORDER BY count(*) DESC LIMIT 20`,
  },
  {
    question: "How long did listeners wait, by hour?",
    sql: `SELECT date_trunc('hour', created) AS hour, count(*) AS jobs,
       quantile_cont(epoch_ms(delivered) - epoch_ms(created), 0.5)::INT AS p50_ms,
       quantile_cont(epoch_ms(delivered) - epoch_ms(created), 0.99)::INT AS p99_ms
FROM jobs WHERE delivered IS NOT NULL GROUP BY hour ORDER BY hour DESC LIMIT 100`,
  },
  {
    question: "Which nodes lost attempts, and for which reason?",
    sql: `SELECT node, data ->> 'reason' AS reason, count(*) AS attempts,
       count(DISTINCT session) AS sessions
FROM events WHERE type = 'AttemptEnded' GROUP BY ALL ORDER BY attempts DESC, node LIMIT 100`,
  },
  {
    question: "What was said with a word, and when?",
    sql: `SELECT created, session, source_text, text FROM jobs
WHERE text ILIKE '%problem%' ORDER BY created LIMIT 100`,
  },
  {
    question: "What did operators do?",
    sql: `SELECT time, type, data ->> 'by' AS operator, data ->> 'why' AS reason
FROM events WHERE data ->> 'by' <> '' ORDER BY time DESC LIMIT 100`,
  },
];

export function Query() {
  const [sql, setSql] = useState(READY[0]!.sql);
  const [rows, setRows] = useState<Row[] | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [isRunning, setRunning] = useState(false);
  const run = async (event: SubmitEvent) => {
    event.preventDefault();
    setRunning(true);
    setError(null);
    try {
      setRows((await post<{ rows: Row[] }>("archive/query", { sql })).rows);
    } catch (failure) {
      setRows(null);
      setError(failure as ApiError);
    }
    setRunning(false);
  };
  return (
    <section aria-label="Query">
      <h2>Query by SQL</h2>
      <form onSubmit={run}>
        <label>
          Question{" "}
          <select onChange={(event) => setSql(READY[Number(event.currentTarget.value)]!.sql)}>
            {READY.map(({ question }, index) => (
              <option value={index} key={question}>
                {question}
              </option>
            ))}
          </select>
        </label>
        <label class="statement">
          Statement over events, jobs and sessions: at most 1,000 rows and 20 s
          <textarea rows={7} value={sql} spellcheck={false} onInput={(event) => setSql(event.currentTarget.value)} />
        </label>
        <button type="submit" disabled={isRunning}>
          {isRunning ? "Running …" : "Run"}
        </button>
      </form>
      {error && <ErrorNote error={error} />}
      {rows?.length === 0 && <Empty>The statement has no row.</Empty>}
      {rows && rows.length > 0 && (
        <Table
          title={`${number(rows.length)} rows, times in UTC`}
          rows={rows}
          columns={Object.keys(rows[0]!).map((name) => ({
            name,
            isWrapped: name.includes("text"),
            isNumber: typeof rows[0]![name] === "number",
            cell: (row: Row) => (typeof row[name] === "number" ? number(row[name] as number) : String(row[name] ?? "–")),
          }))}
        />
      )}
    </section>
  );
}
