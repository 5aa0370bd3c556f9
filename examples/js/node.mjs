// A node in JavaScript, which answers with the loudness of what it hears:
//
//     GATEWAY=http://127.0.0.1:8080 TOKEN=$(eventsched token issue --role node ...) node examples/js/node.mjs
//
// It replaces nothing: put the call of your recogniser where the loudness is computed.
import { JobError, Node } from "../../clients/js/eventsched.js";

async function handle(job) {
  if (job.encoding !== "pcm16") throw new JobError("AUDIO_FORMAT");
  const audio = await job.audio();
  const samples = new Int16Array(audio.buffer, audio.byteOffset, audio.length / 2);
  const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  if (!peak) return null; // no speech
  const loudness = `${job.ms} ms, ${Math.round(20 * Math.log10(peak / 32_768))} dB`;
  return { sourceText: loudness, text: loudness };
}

const node = new Node(process.env.GATEWAY, {
  token: process.env.TOKEN,
  WebSocket: globalThis.WebSocket ?? (await import("ws")).WebSocket, // Node.js before 22: npm install ws
  name: process.env.NODE_NAME ?? "js-1",
  sources: ["en"],
  targets: ["en", "es"],
  slots: 4,
  handler: handle,
  onStateChange: (state) => console.log(state),
  onError: (error) => console.error(error),
});
process.on("SIGTERM", () => node.drain());
process.on("SIGINT", () => node.drain({ withinMs: 5_000 }));
await node.run();
