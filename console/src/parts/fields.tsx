// The fields of a record: plain values beside each other, a list of records as a table.
import { plural, time, ZONE } from "../format";
import { Table } from "./table";

type Row = Record<string, unknown>;

export function Fields({ record }: { record: Row }) {
  return (
    <dl class="fields">
      {Object.entries(record).map(([name, value]) => {
        const rows = rowsOf(value);
        const isShort = !rows && JSON.stringify(value).length <= 40;
        return (
          <div key={name} class={isShort ? "" : "wide"}>
            <dt>
              {name}
              {isTime(name, value) && `, ${ZONE}`}
            </dt>
            <dd>{rows ? <Rows rows={rows} /> : isShort ? textOf(name, value) : <pre>{JSON.stringify(value, null, 1)}</pre>}</dd>
          </div>
        );
      })}
    </dl>
  );
}

function Rows({ rows }: { rows: Row[] }) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const columns = names.map((each) => ({
    name: each || "of",
    isNumber: rows.every((row) => typeof row[each] === "number" && !isTime(each, row[each])),
    isTime: rows.some((row) => isTime(each, row[each])),
    cell: (row: Row) => textOf(each, row[each] ?? ""),
  }));
  return <Table title={plural(rows.length, "row")} rows={rows} columns={columns} />;
}

const isRow = (value: unknown): value is Row => typeof value === "object" && value !== null && !Array.isArray(value);

/** The rows of a list of records, or of records by name, whose column has no name; null for others. */
function rowsOf(value: unknown): Row[] | null {
  if (Array.isArray(value)) return value.length && value.every(isRow) ? value : null;
  if (!isRow(value)) return null;
  const rows = Object.entries(value).flatMap(([key, each]) => (Array.isArray(each) ? each : [each]).map((row) => ({ key, row })));
  return rows.length && rows.every(({ row }) => isRow(row)) ? rows.map(({ key, row }) => ({ "": key, ...(row as Row) })) : null;
}

const isTime = (name: string, value: unknown) => name.endsWith("_ms") && typeof value === "number" && value > 1e12;

/** A value in one line; one in milliseconds since 1970 as a time. */
function textOf(name: string, value: unknown): string {
  if (isTime(name, value)) return time(value as number, true);
  if (Array.isArray(value)) return value.map((each) => textOf("", each)).join(", ") || "none";
  if (isRow(value)) return Object.entries(value).map(([key, each]) => `${key} ${textOf(key, each)}`).join(", ") || "none";
  return value === "" || value === null ? "–" : String(value);
}
