// How long utterances wait for a node and for their delivery, from the times in their events.
import { msOf } from "./format";
import type { LogEvent } from "./types";

const WINDOW_MS = 120_000;
const SAMPLES_MAX = 10_000;

export interface Quantiles {
  count: number;
  p50: number;
  p99: number;
}

type Kind = "dispatch" | "delivery";

/** The time since the finalize that an event tells, as the projection `metrics` counts it. */
function timeOf(event: LogEvent): { kind: Kind; ms: number } | null {
  const { type, data, cause, id } = event;
  const age = Number(data.age_ms ?? 0);
  if (type === "JobDispatched" && data.attempt === 1) {
    if (data.rule === "fill") return { kind: "dispatch", ms: age };
    // The cause of another first attempt is UtteranceFinalized.
    return cause.startsWith("log/") ? { kind: "dispatch", ms: msOf(id) - msOf(cause.slice(4)) } : null;
  }
  if (type === "ResultDelivered" || (type === "ResultRecorded" && data.delivered)) return { kind: "delivery", ms: age };
  return null;
}

/** The last two minutes of a stream of events. */
export class Latencies {
  private readonly samples: Record<Kind, { at: number; ms: number }[]> = { dispatch: [], delivery: [] };

  add(event: LogEvent): void {
    const time = timeOf(event);
    if (time === null) return;
    const at = msOf(event.id);
    const samples = this.samples[time.kind];
    samples.push({ at, ms: time.ms });
    while (samples.length > SAMPLES_MAX || samples[0]!.at < at - WINDOW_MS) samples.shift();
  }

  quantiles(kind: Kind): Quantiles {
    const times = this.samples[kind].map(({ ms }) => ms).sort((a, b) => a - b);
    const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
    return { count: times.length, p50: at(0.5), p99: at(0.99) };
  }
}
