// Speaks a recording into a session as fast as a person would, or what a microphone hears.
import workletUrl from "../../clients/js/capture.worklet.js?url";
import { captureMicrophone, type Session } from "../../clients/js/eventsched.js";

const RATE = 16_000;
const CHUNK_MS = 100;

export interface Speech {
  stop: () => void;
}

/** Append what the microphone hears until it is stopped. */
export async function speakMicrophone(session: Session): Promise<Speech> {
  const capture = await captureMicrophone(session, { workletUrl: new URL(workletUrl, location.href) });
  return { stop: () => void capture.stop() };
}

/** Append a file of audio in real time; `onEnd` when all of it is spoken. */
export async function speakFile(session: Session, file: ArrayBuffer, onEnd: () => void): Promise<Speech> {
  const samples = await decode(file);
  const size = (RATE * CHUNK_MS) / 1_000;
  let at = 0;
  const timer = setInterval(() => {
    session.append(samples.slice(at, at + size)).catch(stop);
    at += size;
    if (at >= samples.length) {
      stop();
      onEnd();
    }
  }, CHUNK_MS);
  const stop = () => clearInterval(timer);
  return { stop };
}

/** Decode any audio that the browser plays to 16 kHz PCM16 of one channel. */
async function decode(file: ArrayBuffer): Promise<Int16Array> {
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(file);
  const samples = new Int16Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel += 1) {
    const data = audio.getChannelData(channel);
    for (let at = 0; at < samples.length; at += 1)
      samples[at]! += Math.max(-1, Math.min(1, data[at]!)) * (32_767 / audio.numberOfChannels);
  }
  return samples;
}
