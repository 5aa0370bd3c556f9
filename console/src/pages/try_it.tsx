// Try it: speak into the microphone or play a recording, and see the captions as they arrive.
import { useEffect, useRef, useState } from "preact/hooks";
import { Session, type Outcome } from "../../../clients/js/eventsched.js";
import { duration } from "../format";
import { Empty } from "../parts/notes";
import { link } from "../route";
import { speakFile, speakMicrophone, type Speech } from "../speech";
import type { PageProps } from "./index";

const GATEWAY = new URL("..", new URL(".", location.href)).href.replace(/\/$/, "");
const SAMPLE = new URL("sample.wav", new URL(".", location.href)).href;
/** The gateway finds the ends of utterances; the system needs the detector of speech for it. */
const ENDPOINTING = true;

interface Caption {
  source: string;
  byTarget: Record<string, { text: string; kind: string; ms: number }>;
}

type Origin = "microphone" | "sample" | File;

export function TryIt({ role, tenant }: PageProps) {
  const [captions, setCaptions] = useState<Record<number, Caption>>({});
  const [id, setId] = useState("");
  const [state, setState] = useState("");
  const [problem, setProblem] = useState("");
  const session = useRef<Session | null>(null);
  const speech = useRef<Speech | null>(null);
  const form = useRef<HTMLFormElement>(null);
  const startedMs = useRef(0);

  const end = () => {
    speech.current?.stop();
    speech.current = null;
    session.current?.close().catch(() => {});
    setState((last) => (last ? "waiting for the last captions" : ""));
  };
  useEffect(() => () => end(), []);

  const show = (outcome: Outcome) => {
    const ms = Date.now() - startedMs.current;
    setCaptions((last) => {
      const caption = last[outcome.utterance] ?? { source: "", byTarget: {} };
      const text = outcome.text ?? "";
      const kind = outcome.type;
      return {
        ...last,
        [outcome.utterance]: {
          source: outcome.sourceText || caption.source,
          byTarget: { ...caption.byTarget, [outcome.target]: { text: text || outcome.code, kind, ms } },
        },
      };
    });
  };

  const start = async (origin: Origin) => {
    const values = new FormData(form.current!);
    const field = (name: string) => String(values.get(name) ?? "").trim();
    setCaptions({});
    setProblem("");
    setId("");
    setState("connecting");
    startedMs.current = Date.now();
    try {
      const opened = await Session.open(GATEWAY, {
        source: field("source"),
        targets: field("targets").split(/[\s,]+/).filter(Boolean),
        tenant: tenant === "*" ? field("tenant") : undefined,
        endpointing: ENDPOINTING,
        onError: (error) => setProblem(error.message),
        onBackpressure: ({ cause }) => setProblem(`The system refuses audio for now: ${cause}.`),
      });
      session.current = opened;
      setId(opened.id);
      setState("speaking");
      if (origin === "microphone") speech.current = await speakMicrophone(opened);
      else {
        const file = origin === "sample" ? await (await fetch(SAMPLE)).arrayBuffer() : await origin.arrayBuffer();
        speech.current = await speakFile(opened, file, end);
      }
      for await (const outcome of opened.results()) show(outcome);
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
      end();
    }
    setState("");
  };

  if (role !== "operator" && role !== "producer")
    return (
      <>
        <h1>Try it</h1>
        <Empty>Your token may not speak: log in as an operator.</Empty>
      </>
    );
  const rows = Object.entries(captions);
  return (
    <>
      <h1>Try it</h1>
      <p>Speak, and see what listeners get. The session is a real one: it needs nodes for these languages.</p>
      <form ref={form} class="filter" onSubmit={(event) => event.preventDefault()}>
        <label>
          Spoken language <input name="source" value="en" />
        </label>
        <label>
          Captions in <input name="targets" value="es" />
        </label>
        {tenant === "*" && (
          <label>
            Tenant <input name="tenant" value="demo" />
          </label>
        )}
        <button type="button" disabled={state !== ""} onClick={() => start("microphone")}>
          Speak
        </button>
        <button type="button" disabled={state !== ""} onClick={() => start("sample")}>
          Play the sample
        </button>
        <label>
          or a file <input type="file" accept="audio/*" disabled={state !== ""} onChange={(event) => start(event.currentTarget.files![0]!)} />
        </label>
        <button type="button" disabled={state !== "speaking"} onClick={end}>
          Stop
        </button>
      </form>
      <p role="status">
        {state && <span class="badge good">{state}</span>} {problem && <span class="problem">{problem}</span>}{" "}
        {id && <a href={link("session", id)}>The session, with its nodes and times</a>}
      </p>
      {rows.length === 0 && <Empty>{state ? "Captions appear here." : "No captions yet."}</Empty>}
      <ol class="captions" aria-live="polite">
        {rows.map(([utterance, caption]) => (
          <li key={utterance}>
            <p class="dim">
              Utterance {utterance}: {caption.source}
            </p>
            {Object.entries(caption.byTarget).map(([target, { text, kind, ms }]) => (
              <p key={target} class={kind === "partial" ? "partial" : ""}>
                <code>{target}</code> {kind === "result" || kind === "partial" ? text : `${kind} ${text}`}{" "}
                <span class="dim">
                  {kind === "partial" ? "so far" : `${duration(ms)} after the start`}
                  {kind !== "partial" && id && (
                    <>
                      {" · "}
                      <a href={link("job", `${id}:${utterance}:${target}`)}>why this node</a>
                    </>
                  )}
                </span>
              </p>
            ))}
          </li>
        ))}
      </ol>
    </>
  );
}
