// Numbers, times and durations as text. moments.ts reads times back.
const NUMBER = new Intl.NumberFormat();

export const number = (value: number): string => NUMBER.format(value);
export const plural = (count: number, noun: string): string =>
  `${NUMBER.format(count)} ${noun}${count === 1 ? "" : "s"}`;

export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.floor((ms % 60_000) / 1_000)} s`;
  if (ms < 86_400_000) return `${Math.floor(ms / 3_600_000)} h ${Math.floor((ms % 3_600_000) / 60_000)} min`;
  return `${Math.floor(ms / 86_400_000)} d ${Math.floor((ms % 86_400_000) / 3_600_000)} h`;
}

const TIME_ZONE = new Intl.DateTimeFormat().resolvedOptions().timeZone;
/** The zone of all times that the console shows and reads, for example `New York time`, or `UTC`. */
export const ZONE = /^(Etc\/)?(UTC|GMT)$/.test(TIME_ZONE) ? "UTC" : `${TIME_ZONE.split("/").at(-1)!.replaceAll("_", " ")} time`;

const padded = (value: number, digits = 2) => String(value).padStart(digits, "0");

/** The time of day in 24 hours; `isExact` with milliseconds. */
export function clock(ms: number, isExact = false): string {
  const date = new Date(ms);
  const seconds = [date.getHours(), date.getMinutes(), date.getSeconds()].map((each) => padded(each)).join(":");
  return isExact ? `${seconds}.${padded(date.getMilliseconds(), 3)}` : seconds;
}

/** Day and time of day, as a field for a time accepts them; empty for 0. */
export function time(ms: number, isExact = false): string {
  const date = new Date(ms);
  const day = [padded(date.getFullYear(), 4), padded(date.getMonth() + 1), padded(date.getDate())].join("-");
  return ms ? `${day} ${clock(ms, isExact)}` : "";
}
/** The milliseconds since 1970 of an id of the log. */
export const msOf = (id: string): number => Number(id.split("-")[0]);
