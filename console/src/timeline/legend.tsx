// The kinds of parts that occur in a timeline, in words.
import type { Scene } from "../types";
import { Shape } from "./picture";

const WORDS: Record<string, string> = {
  audio: "audio arrives",
  utterance: "utterance, until it is complete",
  undispatched: "waits for a dispatcher",
  waiting: "waits for a slot",
  running: "attempt, not ended yet",
  ok: "attempt with a result",
  no_speech: "attempt without speech",
  lost: "attempt lost or failed",
  cancelled: "attempt cancelled",
  ready: "ready, waits for an earlier outcome",
  abandoned: "missing in the end",
  playback: "playback",
  refused: "refused: the attempt no longer counts",
};

const OUTCOMES: Record<string, string> = {
  ok: "listeners got the text",
  no_speech: "no speech",
  failed: "failed for good",
  missing: "listeners continue without it",
};

export function Legend({ scene }: { scene: Scene }) {
  const kinds = new Set([...scene.spans, ...scene.marks].map((part) => part.kind));
  const outcomes = new Set(scene.spans.map((span) => span.outcome));
  return (
    <ul class="legend" aria-label="Legend">
      {Object.entries(WORDS)
        .filter(([kind]) => kinds.has(kind))
        .map(([kind, words]) => (
          <li key={kind}>
            <svg class={`part ${kind}`} width="18" height="12" aria-hidden="true">
              <rect x="1" y="1" width="16" height="10" rx="2" />
            </svg>{" "}
            {words}
          </li>
        ))}
      {Object.entries(OUTCOMES)
        .filter(([kind]) => outcomes.has(kind))
        .map(([kind, words]) => (
          <li key={kind}>
            <svg class="part ready" width="18" height="16" aria-hidden="true">
              <Shape kind={kind} x={9} y={8} />
            </svg>{" "}
            {words}
          </li>
        ))}
    </ul>
  );
}
