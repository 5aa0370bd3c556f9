// The place of each part of a timeline: lanes, and tracks in them. Time is the only other dimension,
// so that a part stays in its track when the picture is zoomed.
import type { Mark, Scene, Span } from "../types";

/** Later spans of a lane that overlap more than this many share the last track. */
const TRACKS_MAX = 16;

export interface Lane {
  name: string;
  tracks: number;
  spans: { span: Span; track: number }[];
  marks: Mark[];
}

export function lanesOf(scene: Scene): Lane[] {
  const byName = new Map(scene.lanes.map((name) => [name, { name, tracks: 1, spans: [], marks: [] } as Lane]));
  const ends = new Map<string, number[]>();
  for (const span of [...scene.spans].sort((a, b) => a.from_ms - b.from_ms)) {
    const lane = byName.get(span.lane);
    if (!lane) continue;
    const tracks = ends.get(span.lane) ?? [];
    ends.set(span.lane, tracks);
    let track = tracks.findIndex((end) => end <= span.from_ms);
    if (track < 0) track = Math.min(tracks.length, TRACKS_MAX - 1);
    tracks[track] = Math.max(tracks[track] ?? 0, span.to_ms);
    lane.tracks = Math.max(lane.tracks, track + 1);
    lane.spans.push({ span, track });
  }
  for (const mark of scene.marks) byName.get(mark.lane)?.marks.push(mark);
  return [...byName.values()].filter((lane) => lane.spans.length || lane.marks.length);
}

const STEPS_MS = [
  100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000,
  7_200_000, 21_600_000, 86_400_000,
];

/** Times for at most `count` labels of an axis, and whether they need fractions of a second. */
export function ticksOf(fromMs: number, toMs: number, count: number): { times: number[]; isExact: boolean } {
  const least = (toMs - fromMs) / Math.max(1, count);
  const step = STEPS_MS.find((each) => each >= least) ?? Math.ceil(least / 86_400_000) * 86_400_000;
  const times = [];
  for (let at = Math.ceil(fromMs / step) * step; at <= toMs; at += step) times.push(at);
  return { times, isExact: step < 1_000 };
}

/** A text as lines of at most `width` characters, and at most `count` lines. */
export function linesOf(text: string, width: number, count: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      if (line && line.length + word.length >= width) {
        lines.push(line);
        line = "";
      }
      line = line ? `${line} ${word}` : word.slice(0, width);
    }
    lines.push(line);
  }
  return lines.length > count ? [...lines.slice(0, count - 1), "…"] : lines;
}
