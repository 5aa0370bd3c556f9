// A node that does with a job what the job's source text of the context, or its length, says.
//
// 100 ms: answer at once. 200 ms: partial, extend, sound. 300 ms: fail. 400 ms: no speech. 500 ms:
// throw. 600 ms: wait for a line of standard input. 700 ms: a text that is too long.
// 800 ms: fail, and try again soon.
import { createInterface } from "node:readline";
import { JobError, Node } from "../../clients/js/eventsched.js";

const print = (value) => console.log(JSON.stringify(value));
const { GATEWAY, TOKEN, OPTIONS = "{}" } = process.env;
let resume = () => {};

async function handle(job) {
  const audio = await job.audio();
  print({ job: job.utterance, attempt: job.attempt, bytes: audio.length, context: job.context });
  switch (job.ms) {
    case 200: {
      job.partial("ho", { sourceText: "he" });
      const deadlineMs = await job.extend(60);
      print({ extended: deadlineMs > job.deadlineMs });
      return { text: "hola", sourceText: "hello", audio: new Uint8Array([1, 2, 3]) };
    }
    case 300:
      throw new JobError("OUT_OF_MEMORY");
    case 400:
      return null;
    case 500:
      throw new TypeError("unforeseen");
    case 600:
      job.signal.addEventListener("abort", () => print({ aborted: job.signal.reason.code }));
      await new Promise((resolve) => {
        resume = resolve;
      });
      return { text: "late" };
    case 700:
      return { text: "x".repeat(65_000), sourceText: "y".repeat(65_000) };
    case 800: {
      if (job.attempt > 1) return { text: "again" };
      let refused;
      try {
        refused = new JobError("GPU_BUSY", { retryInMs: 10_001 });
      } catch (error) {
        print({ refused: error.field });
      }
      throw refused ?? new JobError("GPU_BUSY", { retryInMs: 1 });
    }
    default:
      return { text: `${job.ms} ms`, sourceText: `u${job.utterance}` };
  }
}

const node = new Node(GATEWAY, {
  token: TOKEN,
  name: "js-1",
  sources: ["en"],
  targets: ["es"],
  slots: 4,
  handler: handle,
  onStateChange: (state) => print({ state, id: node.id }),
  onError: (error) => print({ error: error.code ?? error.message }),
  ...JSON.parse(OPTIONS),
});
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => (line === "drain" ? node.drain() : resume()));
try {
  await node.run();
  print({ end: "drained" });
} catch (error) {
  print({ failed: error.code, message: error.message });
  process.exitCode = 1;
}
lines.close();
process.stdin.destroy();
