// What an operator looks at first: the sentences about a status that needs an act.
import { duration, plural } from "./format";
import { link } from "./route";
import type { Status } from "./types";

export interface Problem {
  text: string;
  href: string;
}

export function problemsOf(status: Status): Problem[] {
  const problems: Problem[] = status.warnings.map((text) => ({ text, href: "" }));
  const add = (text: string, href: string) => problems.push({ text, href });
  for (const cell of status.cells) {
    const name = status.cells.length > 1 ? `${cell.cell}: ` : "";
    for (const role of cell.roles) {
      const label = role.projection_set ? `${role.role} ${role.projection_set}` : role.role;
      if (role.failing) add(`${name}${label} fails: ${role.error}`, link("projections"));
      else if (!role.running) add(`${name}No process runs ${label}.`, link("projections"));
    }
    for (const reason of cell.backpressure)
      add(`${name}Producers are refused for backpressure: ${reason}.`, link("projections"));
    for (const each of cell.waiting)
      if (each.reason !== "NO_AVAILABLE_NODE" && each.reason !== "BACKOFF")
        add(
          `${name}${plural(each.jobs, "job")} ${each.source} → ${each.target} without a node, the oldest for ${duration(each.oldest_ms)}: ${each.reason}.`,
          link("waiting"),
        );
    for (const each of cell.classes)
      if (each.suspended.length)
        add(`${name}Nodes are suspended for ${each.suspended.join(", ")}.`, link("nodes"));
    if (cell.dead_letters)
      add(
        `${name}${plural(cell.dead_letters, "dead letter")}; the newest: ${cell.newest_dead_letter}.`,
        link("dead-letters", "", { cell: cell.cell }),
      );
    if (cell.stalled_timers) add(`${name}${plural(cell.stalled_timers, "stalled timer")}.`, "");
  }
  return problems;
}
