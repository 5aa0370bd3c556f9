// The segments of a cell of the archive: on an axis of time, and as a table.
import { number, plural, time, msOf, ZONE } from "../format";
import { Empty, Loaded } from "./notes";
import { Table } from "./table";
import { useReply } from "../reply";

const LIST_MS = 10_000;
const WIDTH = 1_000;

interface Segment {
  n: number;
  first: string;
  last: string;
  events: number;
  utterances: number;
  bytes: number;
  root: string;
}

export function Segments({ cell }: { cell: string }) {
  const reply = useReply<{ segments: Segment[]; next: string }>(`archive/${cell}/segments`, { count: "200" }, LIST_MS);
  return (
    <Loaded reply={reply}>
      {({ segments, next }) => {
        if (!segments.length) return <Empty>No segment is sealed yet.</Empty>;
        const from = msOf(segments.at(-1)!.first);
        const to = Math.max(from + 1, msOf(segments[0]!.last));
        const x = (ms: number) => ((ms - from) / (to - from)) * WIDTH;
        return (
          <>
            <svg
              class="segments"
              viewBox={`0 0 ${WIDTH} 28`}
              preserveAspectRatio="none"
              role="img"
              aria-label={`${plural(segments.length, "segment")} from ${time(from)} to ${time(to)}`}
            >
              {segments.map((each) => (
                <rect
                  key={each.n}
                  class={each.n % 2 ? "odd" : ""}
                  x={x(msOf(each.first))}
                  width={Math.max(1, x(msOf(each.last)) - x(msOf(each.first)))}
                  y="2"
                  height="24"
                >
                  <title>{`segment ${each.n}: ${plural(each.events, "event")}, ${time(msOf(each.first))} to ${time(msOf(each.last))}`}</title>
                </rect>
              ))}
            </svg>
            <p class="ends dim">
              <span>{time(from)}</span>
              <span>
                {time(to)}, {ZONE}
              </span>
            </p>
            <details>
              <summary>
                {plural(segments.length, "segment")}
                {next && ", the newest"}
              </summary>
              <Table
                title="Segments, newest first"
                rows={segments}
                columns={[
                  { name: "Segment", isNumber: true, cell: (each) => number(each.n) },
                  { name: "From", isTime: true, cell: (each) => time(msOf(each.first)) },
                  { name: "To", isTime: true, cell: (each) => time(msOf(each.last)) },
                  { name: "Events", isNumber: true, cell: (each) => number(each.events) },
                  { name: "Utterances with audio", isNumber: true, cell: (each) => number(each.utterances) },
                  { name: "Bytes", isNumber: true, cell: (each) => number(each.bytes) },
                  { name: "Root", cell: (each) => <code>{each.root.slice(0, 16)}…</code> },
                ]}
              />
            </details>
          </>
        );
      }}
    </Loaded>
  );
}
