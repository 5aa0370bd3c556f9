// The connection of a session or a node to a gateway, which connects again after it breaks.
//
// Owns: the WebSocket, the token of each connection, the pauses between tries, the end.
// Must not: interpret frames beyond their JSON. Read next: session.js, node.js.
import { EventschedError } from "./errors.js";

export const SUBPROTOCOL = "eventsched.v1";
const PAUSE_MS = 250;
const PAUSE_MS_MAX = 5_000;
const HANDSHAKE_MS = 15_000;
const CHECK_MS = 1_000;
/** Close code of a connection that broke. */
const ABNORMAL = 1006;
/** Codes of a refused first frame that would be refused again. */
const REFUSALS = new Set(["INVALID_MESSAGE", "FORBIDDEN"]);

/** Close codes of a gateway after which a link ends, unless its owner connects again. */
export const Close = Object.freeze({
  DONE: 1000,
  TOO_MANY_FRAMES: 1008,
  TOO_LARGE: 1009,
  PROTOCOL: 4400,
  GONE: 4404,
  SUPERSEDED: 4409,
  LOST: 4410,
  CREDIT_EXCEEDED: 4429,
});
/** @type {Set<number>} */
const FINAL = new Set(Object.values(Close));
/** @type {Map<number, string>} */
const NAMES = new Map(Object.entries(Close).map(([name, code]) => [code, name]));

/**
 * @typedef {object} Owner What a link asks of the session or the node that it serves.
 * @property {() => object} firstFrame The frame that opens, resumes or registers.
 * @property {(frame: Record<string, any>) => void} onFrame A text frame has arrived.
 * @property {(data: Uint8Array) => void} onBinary A binary frame has arrived.
 * @property {() => void} onBroken The connection broke; the link connects again.
 * @property {(error: EventschedError | null) => void} onEnd The link has ended for good.
 * @property {(code: number) => boolean} [connectsAgain] Whether to connect again after a close
 *   code that ends a link otherwise.
 */

/** One connection at a time, to a path of a gateway. */
export class Link {
  #options;
  #path;
  #owner;
  /** @type {any} */ #socket = null;
  #isEstablished = false;
  #wasEstablished = false;
  #hasEnded = false;
  #tries = 0;
  #brokenAt = 0;
  #receivedAt = 0;
  #silenceMs = 0;
  /** @type {EventschedError | null} */ #lastError = null;
  /** @type {any} */ #timer = null;
  /** @type {any} */ #check = null;

  /**
   * @param {{url: string | URL, token?: string | (() => string | Promise<string>), WebSocket?: any,
   *   reconnectMs: number}} options
   * @param {string} path
   * @param {Owner} owner
   */
  constructor(options, path, owner) {
    const WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!WebSocket) {
      throw new EventschedError("NO_WEBSOCKET", "this runtime has no WebSocket", {
        field: "WebSocket",
        remedy: "pass an implementation: new Session(url, { WebSocket }), such as that of `ws`",
      });
    }
    this.#options = { ...options, WebSocket };
    this.#path = path;
    this.#owner = owner;
  }

  get hasEnded() {
    return this.#hasEnded;
  }

  /**
   * Connect again if the gateway sends nothing for so long.
   * @param {number} ms 0 while the owner waits for no frame.
   */
  limitSilence(ms) {
    if (!this.#silenceMs) this.#receivedAt = Date.now();
    this.#silenceMs = ms;
  }

  /** Connect for the first time. The link ends if this fails: only later connections are retried. */
  start() {
    this.#connect();
  }

  /** Count the connection as established: the gateway has accepted the first frame. */
  establish() {
    this.#isEstablished = this.#wasEstablished = true;
    this.#tries = 0;
    this.#brokenAt = 0;
    this.#lastError = null;
  }

  /**
   * Send a frame. A frame for a connection that has broken is dropped: the owner sends what matters
   * again once the link is established.
   * @param {object | Uint8Array} frame
   */
  send(frame) {
    if (this.#socket?.readyState !== 1) return;
    this.#socket.send(frame instanceof Uint8Array ? frame : JSON.stringify(frame));
  }

  /**
   * Close the connection, and connect again after a pause.
   * @param {EventschedError | null} [error] Why, if the gateway said so.
   */
  reconnect(error = null) {
    if (this.#hasEnded) return;
    this.#lastError = error ?? this.#lastError;
    this.#detach();
    this.#onBroken();
  }

  /**
   * The gateway did not accept the first frame: try again, unless that does not help.
   * @param {EventschedError} error
   */
  refuse(error) {
    if (REFUSALS.has(error.code)) this.end(error);
    else this.reconnect(error);
  }

  /**
   * End the link.
   * @param {EventschedError | null} [error] Why; null if nothing went wrong.
   */
  end(error = null) {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    this.#detach();
    this.#owner.onEnd(error);
  }

  // --- one connection -------------------------------------------------------------------------

  async #connect() {
    const { url, token, WebSocket } = this.#options;
    let socket;
    try {
      const bearer = typeof token === "function" ? await token() : token;
      if (this.#hasEnded) return;
      const address = `${String(url).replace(/^http/, "ws").replace(/\/+$/, "")}${this.#path}`;
      const offered = bearer ? [SUBPROTOCOL, `bearer.${bearer}`] : [SUBPROTOCOL];
      socket = new WebSocket(address, offered);
    } catch (error) {
      this.#onFailed(new EventschedError("CONNECTION_FAILED", String(error)));
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    this.#receivedAt = Date.now();
    this.#check = setInterval(() => this.#checkSilence(), CHECK_MS);
    socket.onopen = () => this.send(this.#owner.firstFrame());
    socket.onmessage = (/** @type {any} */ event) => this.#onMessage(event.data);
    socket.onerror = () => this.#onClose(ABNORMAL); // `close` may not follow a failed handshake
    socket.onclose = (/** @type {any} */ event) => this.#onClose(event.code);
  }

  /** Forget the present socket and close it. */
  #detach() {
    const socket = this.#socket;
    this.#socket = null;
    clearInterval(this.#check);
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
    socket.close();
  }

  /** @param {string | ArrayBuffer} data */
  #onMessage(data) {
    this.#receivedAt = Date.now();
    if (typeof data !== "string") {
      this.#owner.onBinary(new Uint8Array(data));
      return;
    }
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      this.reconnect(new EventschedError("INVALID_MESSAGE", "the gateway sent no JSON"));
      return;
    }
    if (frame?.type === "error" && frame.fatal) this.#lastError = EventschedError.of(frame);
    else if (typeof frame?.type === "string") this.#owner.onFrame(frame);
  }

  /** @param {number} code */
  #onClose(code) {
    this.#detach();
    if (FINAL.has(code) && !this.#owner.connectsAgain?.(code)) {
      const name = NAMES.get(code) ?? "";
      const reason = this.#lastError ?? new EventschedError(name, `closed by the gateway: ${code}`);
      this.end(reason);
      return;
    }
    this.#onBroken();
  }

  #checkSilence() {
    const limit = this.#isEstablished ? this.#silenceMs : HANDSHAKE_MS;
    if (limit && Date.now() - this.#receivedAt > limit) this.reconnect();
  }

  // --- between connections --------------------------------------------------------------------

  #onBroken() {
    if (this.#isEstablished) {
      this.#isEstablished = false;
      this.#brokenAt = Date.now();
      this.#owner.onBroken();
    }
    this.#onFailed(
      this.#lastError ??
        new EventschedError("CONNECTION_FAILED", "no connection to the gateway", {
          remedy: "check the URL, the token and its role",
        }),
    );
  }

  /** @param {EventschedError} error */
  #onFailed(error) {
    if (this.#hasEnded) return;
    const isLate = Date.now() - this.#brokenAt > this.#options.reconnectMs;
    if (!this.#wasEstablished || isLate) {
      this.end(error);
      return;
    }
    const most = Math.min(PAUSE_MS_MAX, PAUSE_MS * 2 ** Math.min(this.#tries, 10));
    this.#tries += 1;
    const pause = Math.max(most * (0.5 + Math.random() / 2), error.retryAfterMs);
    this.#timer = setTimeout(() => this.#connect(), pause);
  }
}
