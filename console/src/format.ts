// Numbers, times and durations as text.
const NUMBER = new Intl.NumberFormat();
const CLOCK = new Intl.DateTimeFormat(undefined, {
  dateStyle: "short",
  timeStyle: "medium",
});

export const number = (value: number): string => NUMBER.format(value);
export const plural = (count: number, noun: string): string =>
  `${NUMBER.format(count)} ${noun}${count === 1 ? "" : "s"}`;
export const time = (ms: number): string => (ms ? CLOCK.format(ms) : "");

export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.floor((ms % 60_000) / 1_000)} s`;
  if (ms < 86_400_000) return `${Math.floor(ms / 3_600_000)} h ${Math.floor((ms % 3_600_000) / 60_000)} min`;
  return `${Math.floor(ms / 86_400_000)} d ${Math.floor((ms % 86_400_000) / 3_600_000)} h`;
}

const OF_DAY = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const EXACT = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
});

/** The time of day; `isExact` with milliseconds. */
export const clock = (ms: number, isExact = false): string => (isExact ? EXACT : OF_DAY).format(ms);
/** The milliseconds since 1970 of an id of the log. */
export const msOf = (id: string): number => Number(id.split("-")[0]);
