// Checked by `make types-js`, and never run: the declared types fit the code, and an application.
import {
  captureMicrophone,
  EventschedError,
  JobError,
  Node,
  type NodeOptions,
  type Outcome,
  Session,
} from "../../clients/js/eventsched.js";
import * as errors from "../../clients/js/errors.js";
import * as microphone from "../../clients/js/microphone.js";
import { Node as BuiltNode } from "../../clients/js/node.js";
import { Session as BuiltSession } from "../../clients/js/session.js";

type Public<T> = { [Name in keyof T]: T[Name] };
declare const builtSession: Public<BuiltSession>;
declare const builtNode: Public<BuiltNode>;

export const session: Omit<Public<Session>, "results" | "state"> = builtSession;
export const node: Public<Node> = builtNode;
export const error: Public<EventschedError> = new errors.EventschedError("CODE", "message");
export const jobError: Public<JobError> = new errors.JobError("CODE", { retryInMs: 500 });
export const capture: typeof captureMicrophone = microphone.captureMicrophone;

export async function speak(url: URL, samples: Int16Array): Promise<Outcome[]> {
  const opened = await Session.open(url, { token: async () => "t", source: "en", targets: ["es"] });
  await opened.append(samples);
  opened.finalize();
  opened.finalize({ traceparent: "" });
  const outcomes: Outcome[] = [];
  for await (const outcome of opened.results({ confirm: false })) {
    outcomes.push(outcome);
    opened.confirm(outcome);
  }
  await opened.close();
  return outcomes;
}

const options: NodeOptions = {
  token: "t",
  name: "n",
  sources: ["en"],
  targets: ["es"],
  handler: async (job) => {
    if (job.encoding === "opus") throw new JobError("AUDIO_FORMAT");
    const deadline: number = await job.extend(60);
    const audio: Uint8Array = await job.audio();
    return deadline && audio.length ? { text: "hola", sourceText: "hello" } : null;
  },
};
export const serving: Promise<void> = new Node("ws://127.0.0.1:8080", options).run();
// @ts-expect-error a source language is needed
void Session.open("ws://127.0.0.1:8080", { token: "t" });
