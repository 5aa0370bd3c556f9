// Positions in the log as a reader types them: an entry's id, or a time in the zone that the console shows.
// Owns: reading such a text, and showing a position in a field. Addresses have ids and times in UTC, so
// that they mean the same in another zone.
import { clock, msOf, time, ZONE } from "./format";

const ID = /^(?:log\/)?(\d{1,15}-\d{1,19})$/;
const TIME = /^(?:(\d{4})-(\d\d)-(\d\d))?[T ]?(?:(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d{1,3}))?)?)?$/;
const WITH_ZONE = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*(Z|[+-]\d\d:?\d\d)$/i;

export const TIME_HINT = `2026-01-31 14:05:06, ${ZONE}`;
export const NO_TIME = `This is no time: type day and time in ${ZONE}, as in 2026-01-31 14:05:06.123`;

interface Reading {
  /** A time of day without a day is of the day of this time. */
  dayMs?: number;
  /** A time without milliseconds means the end of its second, so that what the page shows at it counts. */
  isEnd?: boolean;
}

/** The position that a text names: an id, or a time in UTC; empty for an empty text, null if it names none. */
export function positionOf(text: string, { dayMs = Date.now(), isEnd = false }: Reading = {}): string | null {
  const typed = text.trim();
  if (!typed) return "";
  const id = ID.exec(typed);
  if (id) return id[1]!;
  if (/^\d{13}$/.test(typed)) return new Date(Number(typed)).toISOString();
  if (/^\d{10,11}$/.test(typed)) return new Date(Number(typed) * 1_000 + (isEnd ? 999 : 0)).toISOString();
  const ms = WITH_ZONE.test(typed) ? Date.parse(typed.replace(" ", "T")) : local(typed, dayMs);
  if (Number.isNaN(ms)) return null;
  return new Date(isEnd && !/[.,]\d+/.test(typed) ? ms + 999 : ms).toISOString();
}

/** The time that a text without a zone names in the zone of the page; NaN if it names none. */
function local(text: string, dayMs: number): number {
  const parts = TIME.exec(text);
  if (!parts) return NaN;
  const [year, month, day, hours, minutes, seconds] = parts.slice(1, 7).map((each) => each && Number(each)) as number[];
  const base = new Date(dayMs);
  const ms = Number((parts[7] ?? "").padEnd(3, "0"));
  const date = year
    ? new Date(year, month! - 1, day, hours ?? 0, minutes ?? 0, seconds ?? 0, ms)
    : new Date(base.getFullYear(), base.getMonth(), base.getDate(), hours, minutes ?? 0, seconds ?? 0, ms);
  // A Date counts on: month 13 is in the next year.
  const isReal = (!month || (date.getMonth() === month - 1 && date.getDate() === day)) && (hours ?? 0) < 24 && (minutes ?? 0) < 60 && (seconds ?? 0) < 60;
  return isReal ? date.getTime() : NaN;
}

/** The time that a position names; 0 if it names none. */
export function timeOf(position: string): number {
  return (ID.test(position) ? msOf(position.replace("log/", "")) : Date.parse(position)) || 0;
}

/** A position as a field shows it: a time in the zone of the page, anything else as it is. */
export function shown(position: string): string {
  return WITH_ZONE.test(position) && timeOf(position) ? time(timeOf(position), true) : position;
}

/** A text of the gateway that names one time of day, with this time in the zone of the page. */
export function inZone(text: string, ms: number): string {
  return ms ? text.replace(/\d\d:\d\d:\d\d\.\d{3}/, clock(ms, true)) : text;
}
