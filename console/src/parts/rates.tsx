// Events a second and latencies of the last two minutes, from the stream of events.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { clock, duration, number } from "../format";
import { Latencies, type Quantiles } from "../latencies";
import { follow } from "../live";

const SECONDS = 120;
const SERIES = [
  { type: "UtteranceFinalized", label: "utterances", color: "#3b6fb6" },
  { type: "ResultRecorded", label: "results", color: "#2f8f4e" },
  { type: "JobFailed", label: "failed", color: "#c4252f" },
];

const NONE: Quantiles = { count: 0, p50: 0, p99: 0 };
const NO_WAITS: Record<string, Quantiles> = { "Finalize to dispatch": NONE, "Finalize to delivery": NONE };

/** The counts of events by second, and a chart of them. */
export function Rates() {
  const place = useRef<HTMLDivElement>(null);
  const [isLive, setLive] = useState(false);
  const [waits, setWaits] = useState(NO_WAITS);
  useEffect(() => {
    const parent = place.current!;
    const start = Math.floor(Date.now() / 1_000) - SECONDS;
    const times = Array.from({ length: SECONDS }, (_, index) => start + index);
    const counts = SERIES.map(() => new Array<number>(SECONDS).fill(0));
    const axis = { stroke: () => getComputedStyle(parent).color, grid: { stroke: "#8886", width: 1 } };
    const chart = new uPlot(
      {
        width: parent.clientWidth,
        height: 160,
        padding: [null, 40, null, null],
        cursor: { show: false },
        scales: { y: { range: (_, __, max) => [0, Math.max(5, max * 1.1)] } },
        axes: [
          { ...axis, space: 90, values: (_, times) => times.map((each) => clock(each * 1_000)) },
          { ...axis, size: 36 },
        ],
        series: [{}, ...SERIES.map(({ label, color }) => ({ label, stroke: color, width: 2 }))],
        legend: { live: false },
      },
      [times, ...counts],
      parent,
    );
    const sized = new ResizeObserver(() => chart.setSize({ width: parent.clientWidth, height: 160 }));
    sized.observe(parent);
    const latencies = new Latencies();
    const tick = setInterval(() => {
      setWaits({
        "Finalize to dispatch": latencies.quantiles("dispatch"),
        "Finalize to delivery": latencies.quantiles("delivery"),
      });
      const now = Math.floor(Date.now() / 1_000);
      while (times[SECONDS - 1]! < now) {
        times.push(times[SECONDS - 1]! + 1);
        times.shift();
        for (const each of counts) {
          each.push(0);
          each.shift();
        }
      }
      chart.setData([times, ...counts]);
    }, 1_000);
    const end = follow((event) => {
      if (event.type) latencies.add(event);
      const index = SERIES.findIndex((each) => each.type === event.type);
      if (index >= 0) counts[index]![SECONDS - 1]! += 1;
    }, setLive);
    return () => {
      end();
      clearInterval(tick);
      sized.disconnect();
      chart.destroy();
    };
  }, []);
  return (
    <section aria-label="Events a second">
      <h2>
        Events a second <span class={isLive ? "badge good" : "badge"}>{isLive ? "live" : "not connected"}</span>
      </h2>
      <div ref={place} class="chart" />
      <dl class="tiles">
        {Object.entries(waits).map(([name, { count, p50, p99 }]) => (
          <div key={name}>
            <dt>{name}, p50 and p99</dt>
            <dd>{count ? `${duration(p50)}, ${duration(p99)}` : "–"}</dd>
            <dd class="note-of">{number(count)} in two minutes</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
