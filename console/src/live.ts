// The stream of new events. Owns: following it, resuming by the id of the last event, pausing while
// the page is hidden. A page has one stream: browsers allow six connections to an origin.
import { useEffect, useState } from "preact/hooks";
import { address } from "./api";
import type { LogEvent } from "./types";

const RETRY_MS = 3_000;
const QUIET_MS = 400;

/** Call `onEvent` with each new event until the returned function is called. */
export function follow(onEvent: (event: LogEvent) => void, onState: (isLive: boolean) => void): () => void {
  let stream: EventSource | null = null;
  let timer = 0;
  let last = "";
  const open = () => {
    clearTimeout(timer);
    stream?.close();
    stream = null;
    if (document.hidden) return onState(false);
    stream = new EventSource(address("events", { after: last }));
    stream.onopen = () => onState(true);
    stream.onerror = () => {
      onState(false);
      // The browser connects again by itself, but not after a reply with an error.
      if (stream?.readyState === EventSource.CLOSED) timer = window.setTimeout(open, RETRY_MS);
    };
    stream.onmessage = (message) => {
      last = message.lastEventId;
      onEvent(JSON.parse(message.data));
    };
  };
  open();
  document.addEventListener("visibilitychange", open);
  return () => {
    document.removeEventListener("visibilitychange", open);
    clearTimeout(timer);
    stream?.close();
  };
}

/** A number that grows when events arrive that the page wants, at most once in `quietMs`. */
export function useNews(
  isWanted: (event: LogEvent) => boolean,
  key: string,
  quietMs = QUIET_MS,
): { news: number; isLive: boolean } {
  const [news, setNews] = useState(0);
  const [isLive, setLive] = useState(false);
  useEffect(() => {
    let timer = 0;
    const tell = () => {
      timer = 0;
      setNews((count) => count + 1);
    };
    let hasOpened = false;
    const end = follow(
      (event) => {
        if (isWanted(event)) timer ||= window.setTimeout(tell, quietMs);
      },
      (isOpen) => {
        setLive(isOpen);
        if (isOpen && hasOpened) tell(); // something may have happened while the page was hidden
        hasOpened ||= isOpen;
      },
    );
    return () => {
      clearTimeout(timer);
      end();
    };
  }, [key]);
  return { news, isLive };
}
