// The timeline of a session, drawn from the parts that the gateway names. A part is a link to its
// events. Owns: drawing, tooltips, zoom by mouse, touch and keyboard. Never does: decide what a part is.
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { clock, ZONE } from "../format";
import type { Moment, Scene, Span } from "../types";
import { lanesOf, linesOf, ticksOf, type Lane } from "./lanes";
import { useView } from "./view";

const TRACK = 18;
const GAP = 3;
const LANE_GAP = 8;
const AXIS = 22;
const CHAR = 6.7;
const LABEL = 18;
/** Room for the label of a tick. */
const TICK_LABEL = 95;
const NARROW = 640;
const TIP = { width: 52, lines: 12, line: 16 };
const DRAG_PX = 4;

export interface Target {
  event: string;
  job: string;
  utterance: number;
}

interface PictureProps {
  scene: Scene;
  /** Whether the part belongs to what the address selects. */
  isSelected: (target: Target) => boolean;
  hrefOf: (target: Target) => string;
  /** The moment at which the page shows the state; 0 for now. */
  atMs: number;
}

/** What the pointer or the focus is on. */
interface Tip {
  key: string;
  title: string;
  x: number;
  y: number;
}

const targetOf = (span: Span): Target => ({ event: span.event, job: span.job || span.chain, utterance: span.utterance });

export function Picture({ scene, isSelected, hrefOf, atMs }: PictureProps) {
  const frame = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  const [tip, setTip] = useState<Tip | null>(null);
  const view = useView(scene.from_ms, scene.to_ms);
  const lanes = useMemo(() => lanesOf(scene), [scene]);
  const latest = useRef(view);
  latest.current = view;

  const isNarrow = width < NARROW;
  const gutter = isNarrow ? 4 : 130;
  const head = isNarrow ? LABEL : 0;
  const plot = Math.max(10, width - gutter - 8);
  const share = (ms: number) => (ms - view.fromMs) / (view.toMs - view.fromMs);
  const xOf = (ms: number) => gutter + Math.min(1.01, Math.max(-0.01, share(ms))) * plot;
  const shareAt = (clientX: number) =>
    Math.min(1, Math.max(0, (clientX - (frame.current?.getBoundingClientRect().left ?? 0) - gutter) / plot));

  useEffect(() => {
    const parent = frame.current!;
    const sized = new ResizeObserver(() => setWidth(parent.clientWidth));
    sized.observe(parent);
    return () => sized.disconnect();
  }, []);
  useEffect(() => {
    const parent = frame.current!;
    const onWheel = (event: WheelEvent) => {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        latest.current.zoom(event.deltaY > 0 ? 1.25 : 0.8, shareAt(event.clientX));
      } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        event.preventDefault();
        latest.current.move((event.deltaX || event.deltaY) / 1_000);
      }
    };
    parent.addEventListener("wheel", onWheel, { passive: false });
    return () => parent.removeEventListener("wheel", onWheel);
  }, [width]);
  const drag = useDrag(frame, plot, (moved) => latest.current.move(moved));

  const tops: number[] = [];
  let bottom = AXIS;
  for (const lane of lanes) {
    tops.push(bottom + head);
    bottom += head + lane.tracks * (TRACK + GAP) + LANE_GAP;
  }
  const height = bottom;
  const ticks = ticksOf(view.fromMs, view.toMs, plot / 110);

  const parts: ComponentChildren[] = [];
  let firstKey = "";
  const add = (key: string, target: Target, title: string, kind: string, x: number, y: number, shape: ComponentChildren) => {
    firstKey ||= key;
    const show = () => setTip({ key, title, x, y });
    const current = isSelected(target);
    parts.push(
      <a
        key={key}
        data-part={key}
        class={`part ${kind}${current ? " selected" : ""}`}
        href={hrefOf(target)}
        tabindex={key === (tip?.key ?? firstKey) ? 0 : -1}
        aria-label={title}
        aria-current={current || undefined}
        onPointerEnter={show}
        onPointerLeave={() => setTip(null)}
        onFocus={show}
        onBlur={() => setTip(null)}
      >
        {shape}
      </a>,
    );
  };
  lanes.forEach((lane, at) => drawLane(lane, tops[at]!));

  function drawLane(lane: Lane, top: number) {
    const drawn = new Set<string>();
    for (const { span, track } of lane.spans) {
      if (span.to_ms < view.fromMs || span.from_ms > view.toMs) continue;
      const x = xOf(span.from_ms);
      const wide = Math.max(2, xOf(span.to_ms) - x);
      // Parts that would cover the same pixels are drawn once, so a long session stays quick.
      const place = `${track} ${Math.round(x / 2)} ${Math.round(wide / 2)} ${span.outcome}`;
      if (drawn.has(place) && !isSelected(targetOf(span))) continue;
      drawn.add(place);
      const y = top + track * (TRACK + GAP);
      const room = Math.floor((wide - 6) / CHAR);
      const label = span.label.length <= room ? span.label : room > 3 ? `${span.label.slice(0, room - 1)}…` : "";
      const key = `${lane.name} ${span.event} ${span.job || span.chain} ${span.from_ms}`;
      add(key, targetOf(span), `${lane.name}: ${span.title || span.label}`, span.kind, x, y + TRACK, (
        <>
          {(span.to_ms > span.from_ms || !span.outcome) && (
            <rect x={x} y={y} width={wide} height={TRACK} rx="2" stroke-dasharray={span.is_open ? "3 2" : undefined} class={span.is_retry ? "again" : ""} />
          )}
          {label && (
            <text x={x + 4} y={y + 13}>
              {label}
            </text>
          )}
          {span.outcome && share(span.to_ms) <= 1 && <Shape kind={span.outcome} x={xOf(span.to_ms)} y={y + TRACK / 2} />}
        </>
      ));
    }
    for (const mark of lane.marks) {
      if (mark.at_ms < view.fromMs || mark.at_ms > view.toMs) continue;
      const target = { event: mark.event, job: mark.job, utterance: -1 };
      add(`${lane.name} ${mark.event}`, target, `${lane.name}: ${mark.title}`, mark.kind, xOf(mark.at_ms), top + TRACK, (
        <Shape kind={mark.kind} x={xOf(mark.at_ms)} y={top + TRACK / 2} />
      ));
    }
  }

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts: Record<string, () => void> = {
      "+": () => view.zoom(0.5),
      "=": () => view.zoom(0.5),
      "-": () => view.zoom(2),
      "0": view.showAll,
      ArrowLeft: () => view.move(-0.2),
      ArrowRight: () => view.move(0.2),
      ArrowDown: () => focusPart(frame.current!, 1),
      ArrowUp: () => focusPart(frame.current!, -1),
    };
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };

  return (
    <section class="timeline" aria-label="Timeline">
      <div class="toolbar">
        <h2>Timeline</h2>
        <button type="button" aria-label="Earlier" onClick={() => view.move(-0.4)} disabled={view.isAll}>
          ←
        </button>
        <button type="button" aria-label="Later" onClick={() => view.move(0.4)} disabled={view.isAll}>
          →
        </button>
        <button type="button" aria-label="Zoom in" onClick={() => view.zoom(0.5)}>
          +
        </button>
        <button type="button" aria-label="Zoom out" onClick={() => view.zoom(2)} disabled={view.isAll}>
          −
        </button>
        <button type="button" onClick={view.showAll} disabled={view.isAll}>
          Show all
        </button>
        <span class="dim">
          {clock(view.fromMs, true)} to {clock(view.toMs, true)}, {ZONE}
        </span>
      </div>
      <div
        ref={frame}
        class="frame"
        tabIndex={0}
        role="group"
        aria-label="Picture of the timeline. Plus and minus zoom, 0 shows all, left and right move, up and down go to the next part, Enter selects it."
        onKeyDown={onKeyDown}
        {...drag}
      >
        {width > 0 && (
          <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`}>
            {ticks.times.map((ms) => (
              <g key={ms} class="tick">
                <line x1={xOf(ms)} y1={AXIS - 4} x2={xOf(ms)} y2={height} />
                {xOf(ms) + TICK_LABEL < width && (
                  <text x={xOf(ms) + 3} y={AXIS - 8}>
                    {clock(ms, ticks.isExact)}
                  </text>
                )}
              </g>
            ))}
            {lanes.map((lane, at) => (
              <g key={lane.name} class="lane">
                <rect x={gutter} y={tops[at]! - 2} width={plot} height={lane.tracks * (TRACK + GAP) + 1} />
                <text x="4" y={isNarrow ? tops[at]! - 6 : tops[at]! + 13}>
                  {isNarrow || lane.name.length <= 17 ? lane.name : `${lane.name.slice(0, 16)}…`}
                </text>
              </g>
            ))}
            {scene.moments
              .filter(({ at_ms }) => at_ms >= view.fromMs && at_ms <= view.toMs)
              .map((moment) => (
                <MomentLine key={moment.event} moment={moment} x={xOf(moment.at_ms)} height={height} />
              ))}
            {parts}
            {atMs > 0 && share(atMs) >= 0 && share(atMs) <= 1 && (
              <line class="at" x1={xOf(atMs)} y1="0" x2={xOf(atMs)} y2={height} />
            )}
            {tip && <Tooltip tip={tip} width={width} height={height} />}
          </svg>
        )}
      </div>
    </section>
  );
}

/** The shape of an outcome. Its form says what it is, also without colours. */
export function Shape({ kind, x, y }: { kind: string; x: number; y: number }) {
  if (kind === "ok") return <circle class="shape of-ok" cx={x} cy={y} r="5" />;
  if (kind === "no_speech") return <circle class="shape hollow" cx={x} cy={y} r="4.5" />;
  if (kind === "missing") return <path class="shape of-bad" d={`M${x} ${y - 7}l7 7l-7 7l-7 -7z`} />;
  if (kind === "failed") return <path class="shape of-bad" d={`M${x - 6} ${y - 6}h12v12h-12z`} />;
  return <path class="shape cross" d={`M${x - 5} ${y - 5}l10 10M${x - 5} ${y + 5}l10 -10`} />;
}

function MomentLine({ moment, x, height }: { moment: Moment; x: number; height: number }) {
  return (
    <g class="moment">
      <line x1={x} y1={AXIS - 4} x2={x} y2={height} />
      <title>{moment.label}</title>
    </g>
  );
}

function Tooltip({ tip, width, height }: { tip: Tip; width: number; height: number }) {
  const lines = linesOf(tip.title, Math.min(TIP.width, Math.floor((width - 30) / CHAR)), TIP.lines);
  const wide = Math.max(...lines.map((line) => line.length)) * CHAR + 16;
  const high = lines.length * TIP.line + 10;
  const x = Math.max(2, Math.min(tip.x, width - wide - 2));
  const fitsBelow = tip.y + 4 + high <= height;
  const y = Math.max(0, fitsBelow ? tip.y + 4 : Math.min(tip.y - TRACK - 4 - high, height - high));
  return (
    <g class="tip" aria-hidden="true">
      <rect x={x} y={y} width={wide} height={high} rx="4" />
      {lines.map((line, at) => (
        <text key={at} x={x + 8} y={y + 17 + at * TIP.line}>
          {line}
        </text>
      ))}
    </g>
  );
}

/** Focus the part after or before the focused one, in the order of the lanes. */
function focusPart(frame: HTMLElement, step: number) {
  const parts = [...frame.querySelectorAll<SVGElement>("[data-part]")];
  const at = parts.indexOf(document.activeElement as unknown as SVGElement);
  parts[at < 0 ? 0 : Math.min(parts.length - 1, Math.max(0, at + step))]?.focus();
}

/** Move by dragging; a press without a move is a click on the part below it. */
function useDrag(frame: { current: HTMLElement | null }, plot: number, move: (share: number) => void) {
  const from = useRef<number | null>(null);
  const hasMoved = useRef(false);
  return {
    onPointerDown: (event: PointerEvent) => {
      if (event.button === 0) {
        from.current = event.clientX;
        hasMoved.current = false;
      }
    },
    onPointerMove: (event: PointerEvent) => {
      if (from.current === null) return;
      const moved = event.clientX - from.current;
      if (!hasMoved.current && Math.abs(moved) < DRAG_PX) return;
      if (!hasMoved.current) frame.current?.setPointerCapture(event.pointerId);
      hasMoved.current = true;
      from.current = event.clientX;
      move(-moved / plot);
    },
    onPointerUp: () => {
      from.current = null;
    },
    onPointerCancel: () => {
      from.current = null;
    },
    onClickCapture: (event: MouseEvent) => {
      if (hasMoved.current) event.preventDefault();
      hasMoved.current = false;
    },
    onDragStart: (event: DragEvent) => event.preventDefault(),
  };
}
