// A node: it registers at a gateway and runs a handler for each job.
//
// Owns: the attempts, their audio, what is reported and not yet recorded, heartbeats, the drain.
// Must not: connect. Read next: link.js.
//
// The registration belongs to its token, not to the connection. After the connection broke, the
// node registers with the same token: attempts whose audio is complete go on, and the gateway sends
// the others again.
import { EventschedError, JobError } from "./errors.js";
import { Close, Link } from "./link.js";

const LAST = 0x80000000;
const SILENCE_MS_MIN = 10_000;
const HELD_MAX = 256;
const FRAME_BYTES_MAX = 512_000;
const DRAIN_MS = 60_000;

/** One attempt that the node runs, or whose result is not recorded yet. */
class Attempt {
  /** @type {Uint8Array[]} */ #slices = [];
  #isRequested = false;
  /** @type {Promise<Uint8Array>} */ #whole;
  /** @type {(audio: Uint8Array) => void} */ #resolve = () => {};
  /** @type {(error: Error) => void} */ #reject = () => {};
  #controller = new AbortController();
  /** @type {{resolve: (ms: number) => void, reject: (error: Error) => void}[]} */ #extensions = [];

  /** The frames that report the outcome, until it is recorded. @type {(object | Uint8Array)[]} */
  report = [];
  hasAudio = false;

  /**
   * @param {Record<string, any>} frame The frame `job`.
   * @param {(frame: object) => void} send
   * @param {boolean} isLazy
   */
  constructor(frame, send, isLazy) {
    this.id = { job: frame.job, attempt: frame.attempt };
    this.ref = frame.ref;
    this.send = send;
    this.isLazy = isLazy;
    this.#whole = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#whole.catch(() => {}); // a handler may end without its audio
    this.job = Object.freeze(this.#jobOf(frame));
  }

  /** @param {Record<string, any>} frame */
  #jobOf(frame) {
    return {
      key: frame.job,
      attempt: frame.attempt,
      session: frame.session,
      utterance: frame.utterance,
      turn: frame.turn,
      source: frame.source,
      target: frame.target,
      features: frame.features,
      encoding: frame.encoding,
      sampleRate: frame.sample_rate,
      ms: frame.ms,
      paddingMs: frame.padding_ms,
      priority: frame.priority,
      traceparent: frame.traceparent,
      deadlineMs: frame.deadline_ms,
      context: frame.context.map((/** @type {any} */ each) => ({
        sourceText: each.source_text,
        text: each.text,
      })),
      signal: this.#controller.signal,
      audio: () => this.#audio(),
      partial: (/** @type {string | null} */ text, { sourceText = "" } = {}) =>
        this.send({ type: "partial", ...this.id, text, source_text: sourceText }),
      extend: (/** @type {number} */ seconds) => this.#extend(seconds),
    };
  }

  #audio() {
    if (this.isLazy && !this.#isRequested && !this.hasAudio) {
      this.#isRequested = true;
      this.send({ type: "audio", ...this.id });
    }
    return this.#whole;
  }

  /**
   * @param {number} seconds
   * @returns {Promise<number>}
   */
  #extend(seconds) {
    return new Promise((resolve, reject) => {
      this.#extensions.push({ resolve, reject });
      this.send({ type: "extend", ...this.id, seconds });
    });
  }

  /** @param {number} deadlineMs */
  onExtended(deadlineMs) {
    this.#extensions.shift()?.resolve(deadlineMs);
  }

  /**
   * Refuse the oldest request for an extension.
   * @param {EventschedError} error
   * @returns {boolean} Whether there was one.
   */
  refuseExtension(error) {
    const oldest = this.#extensions.shift();
    oldest?.reject(error);
    return oldest !== undefined;
  }

  /**
   * Take one part of the audio.
   * @param {number} number
   * @param {boolean} isLast
   * @param {Uint8Array} slice
   * @returns {boolean} Whether it was the next one.
   */
  takeAudio(number, isLast, slice) {
    if (this.hasAudio) return true;
    if (number !== this.#slices.length) return false;
    this.#slices.push(slice);
    if (!isLast) return true;
    const audio = new Uint8Array(this.#slices.reduce((size, each) => size + each.length, 0));
    let at = 0;
    for (const each of this.#slices) {
      audio.set(each, at);
      at += each.length;
    }
    this.#slices = [];
    this.hasAudio = true;
    this.#resolve(audio);
    return true;
  }

  /**
   * The gateway sends the attempt again, with its audio.
   * @param {number} ref
   */
  repeat(ref) {
    this.ref = ref;
    this.#slices = [];
    if (this.#isRequested && !this.hasAudio) this.send({ type: "audio", ...this.id });
  }

  /** The connection broke: no answer to what was asked will come. */
  onBroken() {
    this.ref = -1;
    const error = new EventschedError("CONNECTION_FAILED", "the connection to the gateway broke");
    while (this.refuseExtension(error));
  }

  /** @param {EventschedError} error */
  cancel(error) {
    this.#reject(error);
    while (this.refuseExtension(error));
    this.#controller.abort(error);
  }
}

/** A node. `run` registers it and serves until it is drained. */
export class Node {
  /** @type {Record<string, any>} */ #options;
  /** @type {Link | null} */ #link = null;
  /** @type {Map<string, Attempt>} */ #attempts = new Map();
  #isRunning = false;
  /** @type {any} */ #crypto = null;
  #token = "";
  #epoch = 0;
  #isRegistered = false;
  /** @type {number | null} */ #drainMs = null;
  /** @type {any} */ #heartbeat = null;
  /** @type {() => void} */ #resolve = () => {};
  /** @type {(error: Error) => void} */ #reject = () => {};

  /**
   * @param {string | URL} url Base URL of the gateway.
   * @param {Record<string, any>} options See eventsched.d.ts.
   */
  constructor(url, options) {
    this.#options = {
      features: [],
      slots: 1,
      version: "",
      lazyAudio: false,
      reconnectMs: Infinity,
      onStateChange: () => {},
      onError: () => {},
      ...options,
      url,
    };
  }

  /** Full id of the node, once it is registered. */
  id = "";

  /**
   * Register and serve. Resolves once the node is drained.
   * @returns {Promise<void>}
   */
  async run() {
    if (this.#isRunning) throw new Error("the node runs already");
    this.#isRunning = true;
    // @ts-ignore: Node.js 18 has no global crypto, and this package needs no types of Node.js
    this.#crypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto;
    this.#token = this.#newToken();
    const { url, token, WebSocket, reconnectMs } = this.#options;
    await new Promise((resolve, reject) => {
      this.#resolve = () => resolve(null);
      this.#reject = reject;
      this.#link = new Link({ url, token, WebSocket, reconnectMs }, "/v1/nodes", {
        firstFrame: () => this.#firstFrame(),
        onFrame: (frame) => this.#onFrame(frame),
        onBinary: (data) => this.#onBinary(data),
        onBroken: () => this.#onBroken(),
        onEnd: (error) => this.#onEnd(error),
        connectsAgain: (code) => this.#registersAgain(code),
      });
      this.#link.start();
    });
  }

  /**
   * Take no new jobs; `run` resolves when the running ones have ended.
   * @param {{withinMs?: number}} [options] After this time, attempts that still run go to other
   *   nodes; 60,000 unless given.
   */
  drain({ withinMs = DRAIN_MS } = {}) {
    this.#drainMs = withinMs;
    if (this.#isRegistered) this.#send({ type: "drain", within_ms: withinMs });
  }

  // --- the link -------------------------------------------------------------------------------

  #firstFrame() {
    const { name, sources, targets, features, slots, version, lazyAudio } = this.#options;
    const held = [...this.#attempts.values()].filter((each) => each.hasAudio || each.report.length);
    return {
      type: "register",
      name,
      sources,
      targets,
      features,
      slots,
      version,
      lazy_audio: lazyAudio,
      registration_token: this.#token,
      held: held.slice(0, HELD_MAX).map((each) => each.id),
    };
  }

  /** @param {Record<string, any>} frame */
  #onFrame(frame) {
    switch (frame.type) {
      case "registered":
        return this.#onRegistered(frame);
      case "job":
        return this.#onJob(frame);
      case "cancel":
        return this.#cancel(keyOf(frame), `cancelled: ${frame.reason}`);
      case "recorded":
        return void this.#attempts.delete(keyOf(frame));
      case "extended":
        return this.#attempts.get(keyOf(frame))?.onExtended(frame.deadline_ms);
      case "heartbeat":
        return this.#onHeartbeat(frame.lost ?? []);
      case "drained":
        return this.#end(null);
      case "error":
        return this.#onError(frame);
      default: // a frame of a later version
        return undefined;
    }
  }

  /** @param {Record<string, any>} frame */
  #onRegistered(frame) {
    if (this.#epoch && frame.epoch !== this.#epoch) this.#cancelAll("the registration was lost");
    this.id = frame.node;
    this.#epoch = frame.epoch;
    this.#isRegistered = true;
    this.#link?.establish();
    for (const attempt of this.#attempts.values()) attempt.report.forEach((part) => this.#send(part));
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => this.#beat(), frame.heartbeat_ms);
    this.#link?.limitSilence(Math.max(SILENCE_MS_MIN, 3 * frame.heartbeat_ms));
    if (this.#drainMs !== null) this.drain({ withinMs: this.#drainMs });
    this.#options.onStateChange("registered");
  }

  /** A new registration token: 128 random bits. */
  #newToken() {
    const bytes = Array.from(this.#crypto.getRandomValues(new Uint8Array(16)));
    return bytes.map((/** @type {number} */ byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  #beat() {
    const held = [...this.#attempts.values()].slice(0, HELD_MAX).map((each) => each.id);
    this.#send({ type: "heartbeat", held });
  }

  /** @param {string[]} lost */
  #onHeartbeat(lost) {
    for (const [key, attempt] of this.#attempts) {
      if (lost.includes(attempt.id.job)) this.#cancel(key, "the lease is lost");
    }
  }

  /** @param {number} code */
  #registersAgain(code) {
    if (code !== Close.LOST || this.#drainMs !== null) return false;
    this.#cancelAll("the registration is lost"); // it was silent for too long: it starts anew
    return true;
  }

  #onBroken() {
    this.#isRegistered = false;
    clearInterval(this.#heartbeat);
    for (const attempt of this.#attempts.values()) attempt.onBroken();
    this.#options.onStateChange("away");
  }

  /** @param {EventschedError | null} error */
  #end(error) {
    this.#link?.end(error);
  }

  /** @param {EventschedError | null} error */
  #onEnd(error) {
    this.#isRegistered = false;
    clearInterval(this.#heartbeat);
    this.#cancelAll("the node has ended");
    this.#link = null;
    this.#isRunning = false;
    this.#epoch = 0;
    const isLostInDrain = this.#drainMs !== null && error?.code === "NODE_UNKNOWN";
    const isDrained = isLostInDrain || error?.code === "NODE_DRAINED"; // by an operator
    this.#options.onStateChange("ended");
    if (error && !isDrained) this.#reject(error);
    else this.#resolve();
  }

  /** @param {object | Uint8Array} frame */
  #send(frame) {
    if (this.#isRegistered) this.#link?.send(frame);
  }

  // --- attempts -------------------------------------------------------------------------------

  /** @param {Record<string, any>} frame */
  #onJob(frame) {
    const key = keyOf(frame);
    const known = this.#attempts.get(key);
    if (known) {
      known.repeat(frame.ref);
      return;
    }
    const attempt = new Attempt(frame, (part) => this.#send(part), this.#options.lazyAudio);
    this.#attempts.set(key, attempt);
    void this.#handle(key, attempt);
  }

  /** @param {Uint8Array} data */
  #onBinary(data) {
    if (data.length < 8) return;
    const view = new DataView(data.buffer, data.byteOffset);
    const [ref, number] = [view.getUint32(0), view.getUint32(4)];
    const attempt = [...this.#attempts.values()].find((each) => each.ref === ref);
    const isLast = number >= LAST;
    const index = isLast ? number - LAST : number;
    if (attempt && !attempt.takeAudio(index, isLast, data.subarray(8))) this.#link?.reconnect();
  }

  /**
   * @param {string} key
   * @param {Attempt} attempt
   */
  async #handle(key, attempt) {
    let report;
    try {
      report = reportOf(attempt.id, await this.#options.handler(attempt.job));
    } catch (error) {
      if (!attempt.job.signal.aborted && !(error instanceof JobError)) this.#options.onError(error);
      report = [failureOf(attempt.id, error)];
    }
    if (this.#attempts.get(key) === attempt) this.#report(attempt, report);
  }

  /**
   * @param {Attempt} attempt
   * @param {(object | Uint8Array)[]} report
   */
  #report(attempt, report) {
    attempt.report = report;
    report.forEach((part) => this.#send(part));
  }

  /**
   * The attempt no longer belongs to this node: its outcome is not reported.
   * @param {string} key
   * @param {string} why
   */
  #cancel(key, why) {
    const attempt = this.#attempts.get(key);
    this.#attempts.delete(key);
    attempt?.cancel(new EventschedError("LEASE_LOST", why));
  }

  /** @param {string} why */
  #cancelAll(why) {
    for (const key of [...this.#attempts.keys()]) this.#cancel(key, why);
  }

  /** @param {Record<string, any>} frame */
  #onError(frame) {
    const error = EventschedError.of(frame);
    const key = keyOf(frame);
    const attempt = this.#attempts.get(key);
    if (!this.#isRegistered) {
      this.#link?.refuse(error);
    } else if (!attempt) {
      this.#options.onError(error);
    } else if (frame.code !== "INVALID_MESSAGE") {
      this.#cancel(key, error.message); // LEASE_LOST, or the result could not be stored
    } else if (attempt.report.length) {
      this.#options.onError(error);
      const failure = failureOf(attempt.id, error);
      const hasFailed = /** @type {any} */ (attempt.report[0]).type === "fail";
      if (hasFailed) this.#cancel(key, error.message);
      else this.#report(attempt, [failure]); // the result cannot be reported as it is
    } else if (!attempt.refuseExtension(error)) {
      this.#options.onError(error); // a partial result
    }
  }
}

/** @param {Record<string, any>} frame */
function keyOf({ job, attempt }) {
  return `${attempt} ${job}`;
}

/**
 * The frames that report what a handler returned.
 * @param {{job: string, attempt: number}} id
 * @param {any} result `{ text, sourceText, language, audio }`; nothing if there is no speech.
 * @returns {(object | Uint8Array)[]}
 */
function reportOf(id, result) {
  if (result === null || result === undefined) return [{ type: "no_speech", ...id }];
  const { text = null, sourceText = "", language = "", audio = null } = result;
  const frame = { type: "result", ...id, text, source_text: sourceText, language };
  const size = new TextEncoder().encode(JSON.stringify(frame)).length;
  if (size > FRAME_BYTES_MAX || audio?.length > FRAME_BYTES_MAX) {
    throw new EventschedError("INVALID_MESSAGE", "the result is too large", {
      field: size > FRAME_BYTES_MAX ? "text" : "audio",
      limit: `${FRAME_BYTES_MAX} bytes`,
    });
  }
  return audio?.length ? [{ ...frame, audio: true }, audio] : [frame];
}

/**
 * The frame that reports what a handler threw.
 * @param {{job: string, attempt: number}} id
 * @param {unknown} error
 */
function failureOf(id, error) {
  if (!(error instanceof JobError)) {
    return { type: "fail", ...id, code: "HANDLER_ERROR", retryable: true };
  }
  const { code, retryable, feature, retryInMs } = error;
  const frame = { type: "fail", ...id, code, retryable, feature };
  return retryInMs === null ? frame : { ...frame, retry_in_ms: retryInMs };
}
