// What a page shows instead of, or above, its data: loading, nothing, an error.
import type { ComponentChildren } from "preact";
import type { ApiError } from "../api";
import type { Reply } from "../reply";

const TITLES: Record<number, string> = {
  0: "The gateway does not answer",
  401: "You are not logged in",
  403: "Your token may not see this",
  404: "Not found",
  429: "Too many requests",
  503: "The server does not answer",
};
const REMEDIES: Record<number, string> = {
  0: "The page tries again by itself. Check that the gateway runs.",
  401: "The token has expired or is missing. Open a new login link: restart `eventsched up`, or ask for a link.",
  403: "Ask for a token with another role, or for all tenants.",
  503: "The page tries again by itself. Check that the server runs.",
};

export function ErrorNote({ error }: { error: ApiError }) {
  return (
    <div class="note error" role="alert">
      <strong>{TITLES[error.status] ?? "The request failed"}</strong>
      <p>{error.message}</p>
      {REMEDIES[error.status] && <p>{REMEDIES[error.status]}</p>}
    </div>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="note empty">{children}</p>;
}

/** Show the error of a reply above the last data, or a sign that the first reply is awaited. */
export function Loaded<T>({ reply, children }: { reply: Reply<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {reply.error && <ErrorNote error={reply.error} />}
      {reply.data !== null && children(reply.data)}
      {reply.data === null && !reply.error && <p class="note loading">Loading …</p>}
    </>
  );
}
