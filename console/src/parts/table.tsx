// A table. On a narrow screen each row is a block, with the name of the column before each value; the
// roles say that it still is a table.
import { ZONE } from "../format";
import type { ComponentChildren } from "preact";

export interface Column<T> {
  name: string;
  isNumber?: boolean;
  /** Whether a long text continues on the next line. */
  isWrapped?: boolean;
  /** Whether the cells are times: the head names their zone. */
  isTime?: boolean;
  /** Whether the reader may use the column; true if it is left out. */
  isShown?: boolean;
  cell: (row: T) => ComponentChildren;
}

/** The name that the head of a column has, and each of its cells on a narrow screen. */
const nameOf = <T,>({ name, isTime }: Column<T>) => (isTime ? `${name}, ${ZONE}` : name);

interface TableProps<T> {
  title: string;
  columns: Column<T>[];
  rows: T[];
  /** What a row shows, so that an open form stays in its row when other rows come and go. */
  idOf?: (row: T) => string;
}

export function Table<T>({ title, columns, rows, idOf }: TableProps<T>) {
  columns = columns.filter((column) => column.isShown ?? true);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={title}>
      <table role="table">
        <caption>{title}</caption>
        <thead>
          <tr role="row">
            {columns.map((column) => (
              <th role="columnheader" scope="col" class={column.isNumber ? "number" : ""} key={column.name}>
                {nameOf(column)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr role="row" key={idOf?.(row) ?? index}>
              {columns.map((column) => (
                <td role="cell" data-label={nameOf(column)} class={column.isNumber ? "number" : column.isWrapped ? "wrap" : ""} key={column.name}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
