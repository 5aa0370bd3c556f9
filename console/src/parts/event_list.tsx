// Events one below the other, for a narrow place: with their cause, and the selected one marked.
import { useEffect, useRef } from "preact/hooks";
import { clock, msOf, ZONE } from "../format";
import { Cause } from "./cause";
import { EventContent } from "./events";
import type { LogEvent } from "../types";

interface EventListProps {
  events: LogEvent[];
  selected: string;
  hrefOf: (eventId: string) => string;
}

export function EventList({ events, selected, hrefOf }: EventListProps) {
  const marked = useRef<HTMLLIElement>(null);
  useEffect(() => {
    // Scroll the list alone: the page stays where its reader looks.
    const place = marked.current;
    const list = place?.closest(".selection");
    if (!place || !list) return;
    const below = place.getBoundingClientRect().bottom - list.getBoundingClientRect().bottom;
    const above = list.getBoundingClientRect().top - place.getBoundingClientRect().top;
    if (below > 0) list.scrollTop += below;
    else if (above > 0) list.scrollTop -= above;
  }, [selected, events.length]);
  const typeOf = new Map(events.map((event) => [event.id, event.type]));
  return (
    <>
      <p class="dim">Times are {ZONE}.</p>
      <ol class="events">
        {events.map((event) => (
          <li key={event.id} ref={event.id === selected ? marked : undefined} class={event.id === selected ? "selected" : ""}>
            <strong>{event.type ?? "unreadable"}</strong> <span class="dim">{clock(msOf(event.id), true)}</span>{" "}
            <a href={hrefOf(event.id)} aria-current={event.id === selected || undefined}>
              <code>{event.id}</code>
            </a>
            {event.cause && (
              <p class="dim">
                caused by <Cause cause={event.cause} typeOf={typeOf} hrefOf={hrefOf} isRead />
                {event.node && ` · ${event.node}`}
              </p>
            )}
            <EventContent event={event} />
          </li>
        ))}
      </ol>
    </>
  );
}
