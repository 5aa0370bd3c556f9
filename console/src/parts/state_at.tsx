// The record of a session at any of its events: a slider over their ids, and a field for an id or time.
import { useState } from "preact/hooks";
import { clock, msOf } from "../format";
import { Fields } from "./fields";
import { Loaded } from "./notes";
import { useReply } from "../reply";
import { link, type Place } from "../route";
import type { LogEvent, State } from "../types";

export function StateAt({ place, events }: { place: Place; events: LogEvent[] }) {
  const at = place.query.at ?? "";
  const last = events.length - 1;
  // The event under the slider until the address names it. Events that arrive meanwhile do not move the slider.
  const [moved, setMoved] = useState({ at, id: "" });
  if (moved.at !== at) setMoved({ at, id: "" });
  const position = moved.id || at;
  const index = position ? events.findLastIndex((event) => isUpTo(event.id, position)) : last;
  const shown = events[Math.max(0, index)];
  const state = useReply<State>(at ? `sessions/${encodeURIComponent(place.id)}` : "", { at });
  const go = (id: string) => location.replace(link("session", place.id, { ...place.query, at: id }));
  const onSubmit = (event: SubmitEvent) => {
    event.preventDefault();
    go(String(new FormData(event.currentTarget as HTMLFormElement).get("at")).trim());
  };
  return (
    <section class="state" aria-label="State at a moment">
      <h2>State at a moment</h2>
      {last >= 0 && (
        <label class="slider">
          <span>
            After event {index + 1} of {last + 1}: {shown?.type} {shown && clock(msOf(shown.id), true)}
          </span>
          <input
            type="range"
            min="0"
            max={last}
            value={index}
            onInput={(event) => setMoved({ at, id: events[Number(event.currentTarget.value)]!.id })}
            onChange={(event) => go(events[Number(event.currentTarget.value)]!.id)}
          />
        </label>
      )}
      <form class="filter" onSubmit={onSubmit}>
        <label>
          Log id or time <input name="at" value={at} key={at} placeholder="2026-01-31T14:05:06" />
        </label>
        <button type="submit">Show</button>
        {at && <a href={link("session", place.id, { ...place.query, at: "" })}>Now</a>}
      </form>
      {at && (
        <Loaded reply={state}>
          {(record) => (
            <>
              <p class="dim">
                The record after <code>{record.at}</code>
              </p>
              <Fields record={record.view} />
            </>
          )}
        </Loaded>
      )}
    </section>
  );
}

/** Whether an id of the log is not after a position, which is an id or a time. */
function isUpTo(id: string, at: string): boolean {
  if (!/^\d+-\d+$/.test(at)) return msOf(id) <= Date.parse(at);
  const [ms, sequence] = [msOf(id) - msOf(at), Number(id.split("-")[1]) - Number(at.split("-")[1])];
  return ms < 0 || (ms === 0 && sequence <= 0);
}

/** The time that a position names, for a line in the picture; 0 if it names none. */
export function timeOf(at: string): number {
  return (/^\d+-\d+$/.test(at) ? msOf(at) : Date.parse(at)) || 0;
}
