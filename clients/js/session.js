// A producer: one session at a gateway, which outlives its connections.
//
// Owns: the numbers of chunks, the buffer of what is not acknowledged, the credit, the outcomes that
// wait for the application. Must not: connect. Read next: link.js.
//
// Whatever is sent stays in the buffer until the gateway has acknowledged it, and is sent again
// after the connection broke. So a connection that breaks loses nothing, and the memory of a session
// is bounded by `bufferBytes`.
import { EventschedError } from "./errors.js";
import { Link } from "./link.js";

const CHUNK_MS = 100;
const CHUNK_MS_MIN = 20;
const BUFFER_BYTES = 2 * 1024 * 1024;
const RECONNECT_MS = 60_000;
const SILENCE_MS = 15_000;
/** Requests that may be on their way beside the audio. */
const REQUESTS_MAX = 32;
const FINAL = new Set(["result", "no_speech", "failed", "missing"]);

/** @typedef {{number: number, frame: Uint8Array, size: number}} Chunk */
/** @typedef {{after: number, frame: {type: string, traceparent?: string}}} Request A request after the chunks below `after`. */

/** A session that is open at a gateway. `Session.open` and `Session.resume` make it. */
export class Session {
  /** @type {Record<string, any>} */ #options;
  #link;
  /** @type {Record<string, any>} */ #opening;
  #isConnected = false;
  #state = "connecting";
  /** @type {EventschedError | null} */ #error = null;

  /** @type {(Chunk | Request)[]} */ #items = [];
  /** How many of `#items` are sent on this connection. */ #sent = 0;
  #bytes = 0;
  #bytesSent = 0;
  #requestsSent = 0;
  #next = 0;
  #acked = 0;
  #credit = { chunks: 1, bytes: 0 };
  /** Bytes of PCM16 that are too few for a chunk. @type {Uint8Array} */ #rest = new Uint8Array(0);
  #isClosing = false;
  /** Why the session takes no more audio, if it is not `close`. @type {EventschedError | null} */
  #refusal = null;
  /** @type {(() => void)[]} */ #roomWaiters = [];

  /** @type {Record<string, any>[]} */ #outcomes = [];
  /** @type {(() => void) | null} */ #outcomeWaiter = null;
  #received = "";
  #handled = "";

  /** @type {Promise<Session>} */ #opened;
  /** @type {(value: any) => void} */ #resolveOpened = () => {};
  /** @type {(error: Error) => void} */ #rejectOpened = () => {};
  /** @type {Promise<void>} */ #closed;
  /** @type {() => void} */ #resolveClosed = () => {};
  /** @type {(error: Error) => void} */ #rejectClosed = () => {};

  /**
   * @param {string | URL} url
   * @param {Record<string, any>} options
   * @param {Record<string, any>} opening
   */
  constructor(url, options, opening) {
    this.#options = {
      encoding: "pcm16",
      sampleRate: 16_000,
      bufferBytes: BUFFER_BYTES,
      onStateChange: () => {},
      onBackpressure: () => {},
      onError: () => {},
      ...options,
    };
    this.#opening = opening;
    this.#received = this.#handled = opening.results_after ?? "";
    this.#opened = new Promise((resolve, reject) => {
      this.#resolveOpened = resolve;
      this.#rejectOpened = reject;
    });
    this.#closed = new Promise((resolve, reject) => {
      this.#resolveClosed = resolve;
      this.#rejectClosed = reject;
    });
    this.#closed.catch(() => {}); // also thrown by `results`; nobody has to await both
    const { token, WebSocket, reconnectMs = RECONNECT_MS } = options;
    this.#link = new Link({ url, token, WebSocket, reconnectMs }, "/v1/sessions", {
      firstFrame: () => this.#firstFrame(),
      onFrame: (frame) => this.#onFrame(frame),
      onBinary: () => {},
      onBroken: () => this.#onBroken(),
      onEnd: (error) => this.#onEnd(error),
    });
    this.#link.start();
  }

  /**
   * Open a session.
   * @param {string | URL} url Base URL of the gateway.
   * @param {Record<string, any>} options See eventsched.d.ts.
   * @returns {Promise<Session>}
   */
  static async open(url, options) {
    const opening = {
      type: "open",
      source: options.source,
      targets: options.targets,
      features: options.features,
      room: options.room,
      listen_language: options.listenLanguage,
      encoding: options.encoding,
      sample_rate: options.sampleRate,
      priority: options.priority,
      traceparent: options.traceparent,
      partials: options.partials,
      endpointing: options.endpointing,
      tenant: options.tenant,
    };
    return new Session(url, options, opening).#opened;
  }

  /**
   * Go on with a session that this or another process has opened.
   * @param {string | URL} url Base URL of the gateway.
   * @param {Record<string, any>} options See eventsched.d.ts.
   * @returns {Promise<Session>}
   */
  static async resume(url, options) {
    const opening = {
      type: "resume",
      session: options.session,
      resume_token: options.resumeToken,
      results_after: options.resultsAfter,
      partials: options.partials,
      endpointing: options.endpointing,
    };
    return new Session(url, options, opening).#opened;
  }

  /** Id of the session. */
  id = "";
  /** With the id, the right to resume the session. Keep it secret. */
  resumeToken = "";
  /** Index of the current utterance, as last acknowledged. */
  utterance = 0;

  /** `connecting`, `open`, `away` while the connection is broken, `closed` or `failed`. */
  get state() {
    return this.#state;
  }

  /** Bytes of audio that are not acknowledged. */
  get bufferedBytes() {
    return this.#bytes + this.#rest.length;
  }

  /** Whether the buffer is full: `append` would reject. */
  get isFull() {
    return this.#bytes >= this.#options.bufferBytes;
  }

  // --- audio in -------------------------------------------------------------------------------

  /**
   * Append audio. The promise resolves once the buffer has room for more.
   * @param {any} audio PCM16: an Int16Array, or its bytes. Opus: the packets of one chunk.
   */
  async append(audio) {
    this.#checkOpen();
    if (this.isFull) {
      throw new EventschedError("BUFFER_FULL", `${this.#bytes} bytes wait to be acknowledged`, {
        field: "bufferBytes",
        limit: `${this.#options.bufferBytes} bytes`,
        remedy: "await each append; a microphone drops audio meanwhile",
      });
    }
    if (this.#options.encoding === "opus") this.#push(joinPackets(audio));
    else this.#appendPcm(bytesOf(audio));
    this.#pump();
    while (this.isFull && !this.#link.hasEnded) await this.#room();
    const error = this.#error ?? this.#refusal;
    if (error) throw error;
  }

  /**
   * The utterance ends with the audio that was appended before.
   * @param {{traceparent?: string}} options `traceparent`: W3C trace context of this utterance;
   *   without it, that of the session.
   */
  finalize({ traceparent } = {}) {
    this.#checkOpen();
    this.#pushRest();
    const last = this.#items.at(-1);
    if (last && "after" in last) return; // nothing was appended since the last request
    this.#items.push({ after: this.#next, frame: { type: "finalize", traceparent } });
    this.#pump();
  }

  /**
   * Close the session: what was appended is the last utterance; its outcomes still arrive.
   * @returns {Promise<void>} Resolves once every outcome has arrived.
   */
  close() {
    if (!this.#isClosing && !this.#link.hasEnded) {
      this.#pushRest();
      this.#isClosing = true;
      this.#items.push({ after: this.#next, frame: { type: "close" } });
      this.#pump();
    }
    return this.#closed;
  }

  /** Leave the session open for `Session.resume`, once all audio is acknowledged. */
  async detach() {
    this.#checkOpen();
    this.#pushRest();
    this.#isClosing = true;
    this.#pump();
    while (this.#bytes && !this.#link.hasEnded) await this.#room();
    if (this.#error) throw this.#error;
    this.#link.end(null);
  }

  /** Wait until something is acknowledged. */
  #room() {
    return new Promise((resolve) => this.#roomWaiters.push(() => resolve(null)));
  }

  #checkOpen() {
    if (this.#error) throw this.#error;
    if (this.#refusal) throw this.#refusal;
    if (this.#isClosing || this.#link.hasEnded) {
      throw new EventschedError("SESSION_CLOSED", "the session is closed");
    }
  }

  /** @param {Uint8Array} bytes */
  #appendPcm(bytes) {
    const { sampleRate } = this.#options;
    const whole = Math.floor((sampleRate * CHUNK_MS) / 1_000) * 2;
    const least = Math.ceil((sampleRate * CHUNK_MS_MIN) / 1_000) * 2;
    const pcm = this.#rest.length ? concat([this.#rest, bytes]) : bytes;
    let start = 0;
    while (pcm.length - start >= whole) {
      this.#push(pcm.subarray(start, start + whole));
      start += whole;
    }
    const left = (pcm.length - start) & ~1;
    if (left >= least) {
      this.#push(pcm.subarray(start, start + left));
      start += left;
    }
    this.#rest = pcm.slice(start);
  }

  /** Make the last chunk of the utterance of what was too little for one. */
  #pushRest() {
    const even = this.#rest.length & ~1; // half a sample is no audio
    if (even) this.#push(this.#rest.subarray(0, even));
    this.#rest = new Uint8Array(0);
  }

  /** @param {Uint8Array} payload */
  #push(payload) {
    const frame = new Uint8Array(4 + payload.length);
    new DataView(frame.buffer).setUint32(0, this.#next);
    frame.set(payload, 4);
    this.#items.push({ number: this.#next, frame, size: payload.length });
    this.#bytes += payload.length;
    this.#next += 1;
  }

  /** Send what the credit permits. */
  #pump() {
    if (!this.#isConnected) return;
    for (; this.#sent < this.#items.length; this.#sent += 1) {
      const item = this.#items[this.#sent];
      if ("number" in item) {
        if (item.number - this.#acked >= this.#credit.chunks) break;
        if (this.#bytesSent + item.size > this.#credit.bytes) break;
        this.#bytesSent += item.size;
      } else {
        if (this.#requestsSent >= REQUESTS_MAX) break;
        this.#requestsSent += 1;
      }
      this.#link.send(item.frame);
    }
    this.#link.limitSilence(this.#bytesSent > 0 ? SILENCE_MS : 0);
  }

  /**
   * Forget what is stored: every chunk below `next`, and the requests before a stored chunk.
   * @param {number} next
   */
  #acknowledge(next) {
    if (next > this.#next) {
      const message = `the gateway has chunks up to ${next}, this client sent ${this.#next}`;
      this.#link.end(new EventschedError("SEQ_GAP", message));
      return;
    }
    this.#acked = Math.max(this.#acked, next);
    let count = 0;
    for (const item of this.#items) {
      const isStored = "number" in item ? item.number < next : item.after < next;
      if (!isStored) break;
      if ("number" in item) this.#bytes -= item.size;
      if (count < this.#sent) {
        if ("number" in item) this.#bytesSent -= item.size;
        else this.#requestsSent -= 1;
      }
      count += 1;
    }
    this.#items.splice(0, count);
    this.#sent = Math.max(0, this.#sent - count);
    if (!this.isFull) this.#roomWaiters.splice(0).forEach((wake) => wake());
    this.#pump();
  }

  /**
   * Send again, from a chunk on.
   * @param {number} number
   */
  #rewind(number) {
    this.#sent = this.#bytesSent = this.#requestsSent = 0;
    for (const item of this.#items) {
      if ("number" in item) {
        if (item.number >= number) break;
        this.#bytesSent += item.size;
      } else {
        if (item.after >= number) break;
        this.#requestsSent += 1;
      }
      this.#sent += 1;
    }
    this.#pump();
  }

  // --- outcomes -------------------------------------------------------------------------------

  /**
   * Iterate over the outcomes as they arrive, until the session ends. An outcome is confirmed when
   * the next one is asked for.
   * @param {{confirm?: boolean}} [options]
   */
  async *results({ confirm = true } = {}) {
    for (;;) {
      const outcome = await this.#nextOutcome();
      if (!outcome) return;
      yield outcome;
      if (confirm) this.confirm(outcome);
    }
  }

  /**
   * Say that this outcome and the ones before are handled: the server may delete them.
   * @param {Record<string, any>} outcome
   */
  confirm(outcome) {
    if (!FINAL.has(outcome.type)) return;
    this.#handled = outcome.id;
    if (this.#isConnected) this.#link.send({ type: "confirm", id: outcome.id });
  }

  /** @param {Record<string, any>} result A result whose audio starts to play. */
  playbackStarted(result) {
    this.#sendPlayback("playback_started", result);
  }

  /** @param {Record<string, any>} result A result whose audio has ended. */
  playbackEnded(result) {
    this.#sendPlayback("playback_ended", result);
  }

  /**
   * @param {string} type
   * @param {Record<string, any>} result
   */
  #sendPlayback(type, { session, target, utterance }) {
    if (this.#isConnected) this.#link.send({ type, session, target, utterance });
  }

  async #nextOutcome() {
    while (!this.#outcomes.length) {
      if (this.#error) throw this.#error;
      if (this.#link.hasEnded) return null;
      await new Promise((resolve) => {
        this.#outcomeWaiter = () => resolve(null);
      });
    }
    return this.#outcomes.shift();
  }

  /** @param {Record<string, any>} frame */
  #onOutcome(frame) {
    const outcome = outcomeOf(frame);
    if (FINAL.has(frame.type)) this.#received = frame.id;
    const waiting = frame.type === "partial" ? this.#outcomes.findIndex(isSame(outcome)) : -1;
    if (waiting >= 0) this.#outcomes[waiting] = outcome; // only the newest partial is worth reading
    else this.#outcomes.push(outcome);
    this.#outcomeWaiter?.();
  }

  // --- the link -------------------------------------------------------------------------------

  #firstFrame() {
    if (!this.id) return this.#opening;
    return {
      type: "resume",
      session: this.id,
      resume_token: this.resumeToken,
      results_after: this.#received,
      partials: this.#options.partials,
      endpointing: this.#options.endpointing,
    };
  }

  /** @param {Record<string, any>} frame */
  #onFrame(frame) {
    switch (frame.type) {
      case "opened":
        return this.#onOpened(frame);
      case "ack":
        this.utterance = frame.utterance ?? this.utterance;
        return this.#acknowledge(frame.next_seq);
      case "backpressure":
        this.#link.limitSilence(SILENCE_MS + frame.retry_after_ms);
        return this.#options.onBackpressure({
          retryAfterMs: frame.retry_after_ms,
          cause: frame.cause ?? "",
        });
      case "error":
        return this.#onError(frame);
      case "closed":
        this.#isClosing = true;
        return this.#link.end(null);
      case "truncated":
      case "partial":
      case "result":
      case "no_speech":
      case "failed":
      case "missing":
        return this.#onOutcome(frame);
      default: // a frame of a later version
        return undefined;
    }
  }

  /** @param {Record<string, any>} frame */
  #onOpened(frame) {
    const isFirst = !this.id;
    this.id = frame.session;
    this.resumeToken = frame.resume_token;
    this.utterance = frame.utterance ?? 0;
    this.#credit = { chunks: frame.credit_chunks, bytes: frame.credit_bytes };
    if (isFirst) this.#next = this.#acked = frame.next_seq;
    this.#isConnected = true;
    this.#link.establish();
    this.#sent = this.#bytesSent = this.#requestsSent = 0;
    if (this.#handled) this.#link.send({ type: "confirm", id: this.#handled });
    this.#acknowledge(frame.next_seq);
    this.#setState("open");
    this.#resolveOpened(this);
  }

  /** @param {Record<string, any>} frame */
  #onError(frame) {
    const error = EventschedError.of(frame);
    if (!this.#isConnected) {
      this.#link.refuse(error);
    } else if (frame.code === "SESSION_CLOSED") {
      this.#onClosed(error);
    } else if (frame.code === "SEQ_GAP" && typeof frame.expected === "number") {
      this.#rewind(frame.expected);
    } else if (frame.field === "chunk" || frame.field === "audio") {
      this.#link.end(error); // the same chunk would be refused again
    } else {
      this.#options.onError(error);
    }
  }

  /**
   * The session takes no more audio: drop what waits. Its outcomes still arrive.
   * @param {EventschedError} error
   */
  #onClosed(error) {
    if (this.#isClosing && !this.#bytes) return; // closed as asked, and nothing is lost
    this.#isClosing = true;
    this.#refusal = error;
    this.#items = [];
    this.#sent = this.#bytes = this.#bytesSent = this.#requestsSent = 0;
    this.#link.limitSilence(0);
    this.#roomWaiters.splice(0).forEach((wake) => wake());
    this.#options.onError(error);
  }

  #onBroken() {
    this.#isConnected = false;
    this.#setState("away");
  }

  /** @param {EventschedError | null} error */
  #onEnd(error) {
    this.#isConnected = false;
    this.#error = error;
    this.#setState(error ? "failed" : "closed");
    if (error) {
      this.#rejectOpened(error);
      this.#rejectClosed(error);
    }
    this.#resolveClosed();
    this.#roomWaiters.splice(0).forEach((wake) => wake());
    this.#outcomeWaiter?.();
  }

  /** @param {string} state */
  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#options.onStateChange(state);
  }
}

/** @param {Record<string, any>} frame */
function outcomeOf(frame) {
  return {
    type: frame.type,
    id: frame.id,
    session: frame.session,
    utterance: frame.utterance,
    target: frame.target,
    deliveryNo: frame.delivery_no,
    text: frame.text ?? null,
    sourceText: frame.source_text ?? "",
    language: frame.language ?? "",
    audio: frame.audio ? Uint8Array.from(atob(frame.audio), (c) => c.charCodeAt(0)) : null,
    code: frame.code ?? "",
    errorType: frame.error_type ?? "",
    errorMessage: frame.error_message ?? "",
    isEncrypted: frame.is_encrypted ?? false,
    isUnreadable: frame.is_unreadable ?? false,
  };
}

/** @param {Record<string, any>} outcome */
function isSame(outcome) {
  return (/** @type {Record<string, any>} */ other) =>
    other.type === outcome.type &&
    other.session === outcome.session &&
    other.utterance === outcome.utterance &&
    other.target === outcome.target;
}

/** @param {any} audio */
function bytesOf(audio) {
  if (audio instanceof Uint8Array) return audio;
  if (ArrayBuffer.isView(audio)) {
    return new Uint8Array(audio.buffer, audio.byteOffset, audio.byteLength);
  }
  if (audio instanceof ArrayBuffer) return new Uint8Array(audio);
  throw new TypeError("audio: an Int16Array, a Uint8Array or an ArrayBuffer expected");
}

/** @param {Uint8Array[]} parts */
function concat(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * Join Opus packets, each preceded by its length.
 * @param {Uint8Array | Uint8Array[]} packets
 */
function joinPackets(packets) {
  const parts = [];
  for (const packet of Array.isArray(packets) ? packets : [packets]) {
    parts.push(new Uint8Array([packet.length >> 8, packet.length & 255]), bytesOf(packet));
  }
  return concat(parts);
}
