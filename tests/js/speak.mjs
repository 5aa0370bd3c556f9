// Speaks as the lines of standard input say, and prints outcomes and states as JSON.
//
// append MS | opus MS | finalize [TRACEPARENT] | close | detach | flood: the words of a line.
import { createInterface } from "node:readline";
import { Session } from "../../clients/js/eventsched.js";

const print = (value) => console.log(JSON.stringify(value));
const { GATEWAY, TOKEN, OPTIONS = "{}" } = process.env;
const tokens = TOKEN.split(" "); // one for each connection; the last one for all others
const options = {
  token: () => {
    print({ token: "asked" });
    return tokens.length > 1 ? tokens.shift() : tokens[0];
  },
  source: "en",
  targets: ["es"],
  onStateChange: (state) => print({ state }),
  onBackpressure: (backpressure) => print({ backpressure }),
  onError: (error) => print({ error: error.code, field: error.field }),
  ...JSON.parse(OPTIONS),
};

function fail(error) {
  print({ failed: error.code, field: error.field, message: error.message });
  process.exitCode = 1;
}

async function read(session) {
  try {
    for await (const outcome of session.results()) {
      if (outcome.audio) session.playbackStarted(outcome);
      print({ ...outcome, audio: outcome.audio && [...outcome.audio] });
      if (outcome.audio) session.playbackEnded(outcome);
    }
    print({ end: session.state });
  } catch (error) {
    fail(error);
  }
}

async function obey(session, [verb, argument]) {
  if (verb === "append") {
    await session.append(new Int16Array(Number(argument) * 16));
    print({ appended: Number(argument), buffered: session.bufferedBytes });
  } else if (verb === "opus") {
    const packet = new Uint8Array([0xf8, 1, 2, 3]); // one frame of 20 ms
    await session.append(Array.from({ length: Number(argument) / 20 }, () => packet));
  } else if (verb === "flood") {
    const appends = [session.append(new Int16Array(80_000)), session.append(new Int16Array(320))];
    const ends = await Promise.allSettled(appends);
    print({ flooded: ends.map(({ reason }) => reason?.code ?? "stored") });
  } else if (verb === "detach") {
    print({ session: session.id, resumeToken: session.resumeToken });
    await session.detach();
  } else if (verb === "finalize") {
    session.finalize({ traceparent: argument });
  } else {
    session[verb]();
  }
}

try {
  const isResumed = Boolean(options.session);
  const session = await (isResumed ? Session.resume : Session.open)(GATEWAY, options);
  print({ opened: session.id });
  const reading = read(session);
  for await (const line of createInterface({ input: process.stdin })) {
    await obey(session, line.split(" "));
    if (["close", "detach"].includes(line)) break;
  }
  await reading;
} catch (error) {
  fail(error);
}
process.stdin.destroy();
