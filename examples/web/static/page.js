// The page: it speaks into a session and shows the captions as they arrive.
import { captureMicrophone, Session } from "/client/eventsched.js";

const STATES = {
  connecting: "Connecting …",
  open: "Connected.",
  away: "The connection is broken; what you say is buffered …",
  closed: "The session has ended.",
  failed: "The session has failed.",
};
const button = document.getElementById("talk");
const state = document.getElementById("state");
let session = null;
let microphone = null;

async function askToken() {
  const reply = await fetch("/token", { method: "POST" });
  if (!reply.ok) throw new Error(`no token: ${reply.status}`);
  return reply.json();
}

async function openSession() {
  const { gateway } = await askToken();
  const opened = await Session.open(gateway, {
    token: async () => (await askToken()).token, // a fresh one for each connection
    source: "en",
    targets: ["en", "es"],
    endpointing: true, // the gateway finds the ends of utterances
    onStateChange: (name) => show(STATES[name]),
  });
  void showCaptions(opened);
  return opened;
}

async function showCaptions(opened) {
  try {
    for await (const outcome of opened.results()) showCaption(outcome);
  } catch (error) {
    show(`${STATES.failed} ${error.message}`);
  }
  session = null; // the next press of the button opens another one
}

function showCaption({ type, utterance, target, text, sourceText, code }) {
  const list = document.getElementById(target);
  if (!list) return; // `truncated` is about no target
  const id = `${target}-${utterance}`;
  const line = document.getElementById(id) ?? list.appendChild(document.createElement("li"));
  line.id = id;
  line.className = type;
  line.textContent = { failed: `(${code})`, missing: "…", no_speech: "" }[type] ?? text ?? sourceText;
}

function show(text) {
  state.textContent = text;
}

async function start() {
  session ??= await openSession();
  microphone = await captureMicrophone(session, {
    workletUrl: "/client/capture.worklet.js",
    onDropped: (ms) => show(`${STATES.away} ${ms} ms are lost.`),
  });
  button.textContent = "Stop";
}

async function stop() {
  await microphone.stop();
  microphone = null;
  session?.finalize();
  button.textContent = "Speak";
}

button.addEventListener("click", async () => {
  button.disabled = true;
  try {
    await (microphone ? stop() : start());
  } catch (error) {
    show(error.message);
  }
  button.disabled = false;
  button.setAttribute("aria-pressed", String(microphone !== null));
});
