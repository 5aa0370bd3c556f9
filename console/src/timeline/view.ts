// Which time a picture shows. Owns: zooming and moving within the time of the whole.
import { useState } from "preact/hooks";

const LEAST_MS = 50;

export interface View {
  fromMs: number;
  toMs: number;
  isAll: boolean;
  /** Show less (below 1) or more time around the point at this share of the width. */
  zoom: (factor: number, share?: number) => void;
  /** Move by a share of the width. */
  move: (share: number) => void;
  showAll: () => void;
}

export function useView(startMs: number, endMs: number): View {
  const margin = Math.max(LEAST_MS, (endMs - startMs) * 0.02);
  const all = { fromMs: startMs - margin, toMs: endMs + margin };
  const [range, setRange] = useState<{ fromMs: number; toMs: number } | null>(null);
  const { fromMs, toMs } = range ?? all;
  const show = (from: number, to: number) => {
    const length = Math.max(LEAST_MS, to - from);
    if (length >= all.toMs - all.fromMs) return setRange(null);
    const begin = Math.min(Math.max(from, all.fromMs), all.toMs - length);
    setRange({ fromMs: begin, toMs: begin + length });
  };
  const length = toMs - fromMs;
  return {
    fromMs,
    toMs,
    isAll: range === null,
    zoom: (factor, share = 0.5) => {
      const center = fromMs + share * length;
      show(center - share * length * factor, center + (1 - share) * length * factor);
    },
    move: (share) => show(fromMs + share * length, toMs + share * length),
    showAll: () => setRange(null),
  };
}
