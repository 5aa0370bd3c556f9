// The program that `eventsched conformance` runs: docs/conformance.md says what it has to do.
//
//     node clients/js/conformance.mjs producer|node --url URL --token TOKEN --scenario NAME
import { Node, Session } from "./eventsched.js";

const TENTH = 1_600; // samples of 100 ms at 16 kHz

function argument(name) {
  return process.argv[process.argv.indexOf(`--${name}`) + 1];
}

/** So many tenths of a second, which differ from each other. */
function speech(tenths, from) {
  return Int16Array.from({ length: tenths * TENTH }, (_, index) => from + Math.floor(index / TENTH));
}

async function produce(options) {
  const session = await Session.open(argument("url"), { ...options, source: "en", targets: ["es"] });
  await session.append(speech(30, 1));
  session.finalize();
  let isFirst = true;
  for await (const outcome of session.results()) {
    console.log(JSON.stringify(outcome));
    if (!isFirst) continue;
    isFirst = false;
    session.confirm(outcome);
    await session.append(speech(10, 31));
    session.close();
  }
}

async function serve(options) {
  const node = new Node(argument("url"), {
    ...options,
    name: "conformance",
    sources: ["en"],
    targets: ["es"],
    slots: 4,
    handler: async (job) => ({ text: String((await job.audio()).length) }),
    onError: (error) => console.log(`${error}`),
  });
  process.on("SIGTERM", () => node.drain());
  await node.run();
}

/** Node.js before 22 has no WebSocket: the package `ws` has one. */
async function webSocket() {
  return globalThis.WebSocket ?? (await import("ws")).WebSocket;
}

const options = {
  token: argument("token"),
  WebSocket: await webSocket(),
  onStateChange: (state) => console.log(`state: ${state}`),
};
try {
  await (process.argv[2] === "producer" ? produce(options) : serve(options));
} catch (error) {
  console.error(`${error.code ?? ""} ${error.message}`);
  process.exitCode = 1;
}
