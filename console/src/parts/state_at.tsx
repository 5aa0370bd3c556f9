// The record of a session at any of its events: a slider over their ids, and a field for an id or time.
import { useState } from "preact/hooks";
import { clock, msOf, ZONE } from "../format";
import { NO_TIME, positionOf, shown as fieldText, timeOf, TIME_HINT } from "../moments";
import { Fields } from "./fields";
import { Loaded } from "./notes";
import { useReply } from "../reply";
import { link, type Place } from "../route";
import type { LogEvent, State } from "../types";

export function StateAt({ place, events }: { place: Place; events: LogEvent[] }) {
  const last = events.length - 1;
  const dayMs = last >= 0 ? msOf(events[0]!.id) : Date.now();
  const at = positionOf(place.query.at ?? "", { dayMs, isEnd: true }) ?? "";
  const [problem, setProblem] = useState("");
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
    const typed = String(new FormData(event.currentTarget as HTMLFormElement).get("at"));
    const position = positionOf(typed, { dayMs, isEnd: true });
    setProblem(position === null ? `${NO_TIME}, or the id of an event` : "");
    if (position !== null) go(position);
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
          Log id, or time in {ZONE} <input name="at" class="time" defaultValue={fieldText(at)} key={at} placeholder={TIME_HINT} />
        </label>
        <button type="submit">Show</button>
        {at && <a href={link("session", place.id, { ...place.query, at: "" })}>Now</a>}
        {problem && <p class="problem" role="alert">{problem}.</p>}
      </form>
      {at && (
        <Loaded reply={state}>
          {(record) => (
            <>
              <p class="dim">
                The record after <code>{record.at}</code> {timeOf(record.at) > 0 && `${clock(timeOf(record.at), true)}, ${ZONE}`}
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
  if (!/^\d+-\d+$/.test(at)) return msOf(id) <= timeOf(at);
  const [ms, sequence] = [msOf(id) - msOf(at), Number(id.split("-")[1]) - Number(at.split("-")[1])];
  return ms < 0 || (ms === 0 && sequence <= 0);
}
