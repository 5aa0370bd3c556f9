// An act of an operator: it asks for a reason, sends the request, and shows the outcome. If it is refused, the
// form stays, with the code, and what to do.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, post } from "../api";

interface ActProps {
  /** What happens, as the text of the button. */
  name: string;
  /** What the act changes, for a reader that hears the page. */
  label: string;
  path: string;
  body?: object;
  /** The act may go on after the reply, which then says so; the request is repeated until its end. */
  isLong?: boolean;
  /** What the reply says; `done` if it is left out. */
  outcomeOf?: (reply: never) => string;
  /** Gets the outcome instead of this part, which may be gone when the page is read again. */
  onOutcome?: (outcome: string) => void;
}

export function Act({ name, label, path, body = {}, isLong, outcomeOf, onOutcome }: ActProps) {
  const [isOpen, setOpen] = useState(false);
  const [why, setWhy] = useState("");
  const [outcome, setOutcome] = useState("");
  const [problem, setProblem] = useState("");
  // A repeated request with this id is one act: a lost reply is no second act.
  const [request, setRequest] = useState("");
  const reason = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (isOpen) reason.current?.focus(); // a browser heeds `autofocus` when the page is loaded only
  }, [isOpen]);
  const open = () => {
    setOutcome("");
    setProblem("");
    setRequest([...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
    setOpen(true);
  };
  const send = async (event: SubmitEvent) => {
    event.preventDefault();
    setOutcome(isLong ? "running …" : "…");
    setProblem("");
    try {
      const act = () => post<{ is_running?: boolean }>(path, { ...body, why, request });
      let reply = await act();
      while (isLong && reply.is_running) reply = await act();
      const text = outcomeOf?.(reply as never) ?? "done";
      setOutcome(onOutcome ? "" : text);
      setOpen(false);
      onOutcome?.(text);
    } catch (error) {
      setOutcome("");
      setProblem(error instanceof ApiError ? `${error.code}: ${error.message}` : String(error));
    }
  };
  if (!isOpen)
    return (
      <span class="act">
        <button type="button" onClick={open} aria-label={`${name}: ${label}`}>
          {name}
        </button>
        <span role="status">{outcome}</span>
      </span>
    );
  return (
    <form class="act" onSubmit={send} aria-label={`${name}: ${label}`}>
      <label>
        Reason <input value={why} onInput={(event) => setWhy(event.currentTarget.value)} required maxLength={500} ref={reason} />
      </label>
      <button type="submit">{name}</button>
      <button type="button" onClick={() => setOpen(false)}>
        Cancel
      </button>
      <span role="status">{outcome}</span>
      {problem && <p class="problem" role="alert">{problem}</p>}
    </form>
  );
}
