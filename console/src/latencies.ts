// How long utterances wait for a node and for a result, from the times of their events.
import { msOf } from "./format";
import type { LogEvent } from "./types";

const WINDOW_MS = 120_000;
const SAMPLES_MAX = 10_000;

export interface Quantiles {
  count: number;
  p50: number;
  p99: number;
}

/** The last two minutes of a stream of events. */
export class Latencies {
  private readonly finalized = new Map<string, number>();
  private readonly samples: Record<"dispatch" | "result", { at: number; ms: number }[]> = { dispatch: [], result: [] };

  add(event: LogEvent): void {
    const at = msOf(event.id);
    if (event.type === "UtteranceFinalized") {
      this.finalized.set(`${event.session}:${String(event.data.utterance)}`, at);
      if (this.finalized.size > SAMPLES_MAX) this.finalized.delete(this.finalized.keys().next().value!);
      return;
    }
    const kind =
      event.type === "JobDispatched" && event.data.attempt === 1
        ? "dispatch"
        : event.type === "ResultRecorded"
          ? "result"
          : null;
    const [, session, utterance] = event.job.split(":");
    const since = this.finalized.get(`${session}:${utterance}`);
    if (kind === null || since === undefined) return;
    const samples = this.samples[kind];
    samples.push({ at, ms: at - since });
    while (samples.length > SAMPLES_MAX || samples[0]!.at < at - WINDOW_MS) samples.shift();
  }

  quantiles(kind: "dispatch" | "result"): Quantiles {
    const times = this.samples[kind].map(({ ms }) => ms).sort((a, b) => a - b);
    const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
    return { count: times.length, p50: at(0.5), p99: at(0.99) };
  }
}
