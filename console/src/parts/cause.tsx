// The entry that caused an event, with its type, as a link.
import { useReply } from "../reply";
import { link } from "../route";
import type { EventPage } from "../types";

interface CauseProps {
  /** `<stream>/<id>` of the entry. */
  cause: string;
  /** Types of the events beside it, by id. */
  typeOf?: Map<string, string>;
  /** The address of an event beside it; any other is shown by the history. */
  hrefOf?: (eventId: string) => string;
  /** Whether to read the type of a cause that is not beside it: one request for each. */
  isRead?: boolean;
}

/** An event of another stream has a name and no link. */
export function Cause({ cause, typeOf = new Map(), hrefOf, isRead }: CauseProps) {
  const [stream = "", id = ""] = cause.split("/");
  const known = typeOf.get(id) ?? "";
  const isAsked = isRead && stream === "log" && !known;
  const reply = useReply<EventPage>(isAsked ? "history" : "", { since: id, until: id, count: "1" });
  if (stream !== "log") return <>{stream.startsWith("audio:") ? `the chunk of audio ${id}` : cause}</>;
  const isBeside = hrefOf && typeOf.has(id);
  const href = isBeside ? hrefOf(id) : link("history", "", { about: "everything", since: id, until: id });
  return <a href={href}>{known || reply.data?.events[0]?.type || id}</a>;
}
