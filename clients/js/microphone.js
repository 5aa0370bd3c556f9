// The microphone of a browser as the audio of a session.
//
// Owns: the permission, the audio context, what is dropped while the buffer is full.
// Must not: resample. Read next: capture.worklet.js, session.js.
import { EventschedError } from "./errors.js";

const CONSTRAINTS = { channelCount: 1, echoCancellation: true, noiseSuppression: true };

/**
 * Append what the microphone hears to a session of 16 kHz PCM16, until `stop` is called.
 * @param {any} session The session.
 * @param {{workletUrl: string | URL, stream?: any, onDropped?: (ms: number) => void}} options The
 *   URL of capture.worklet.js on the page's own origin; a stream in place of the microphone; called
 *   when audio is dropped, because the session's buffer is full.
 */
export async function captureMicrophone(session, { workletUrl, stream, onDropped = () => {} }) {
  const { AudioContext, AudioWorkletNode, navigator } = /** @type {any} */ (globalThis);
  if (!AudioContext || !AudioWorkletNode) {
    throw new EventschedError("NO_MICROPHONE", "this runtime has no audio worklets", {
      remedy: "use a browser, and a page of https or of localhost",
    });
  }
  const source = stream ?? (await navigator.mediaDevices.getUserMedia({ audio: CONSTRAINTS }));
  const context = new AudioContext();
  const stop = async () => {
    if (!stream) source.getTracks().forEach((/** @type {any} */ track) => track.stop());
    if (context.state !== "closed") await context.close();
  };
  try {
    await context.audioWorklet.addModule(String(workletUrl));
    const capture = new AudioWorkletNode(context, "eventsched-capture", { numberOfOutputs: 0 });
    capture.port.onmessage = (/** @type {any} */ { data }) => {
      if (session.isFull) onDropped(data.length / 16);
      else session.append(data).catch(() => void stop()); // the session has ended, and says why
    };
    context.createMediaStreamSource(source).connect(capture);
    await context.resume();
  } catch (error) {
    await stop();
    throw error;
  }
  return { stop };
}
