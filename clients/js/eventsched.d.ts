// The types of the client. eventsched.js has the code.

export type Token = string | (() => string | Promise<string>);

interface Connecting {
  /**
   * Token of the gateway; a function is called for each connection, and returns a fresh one. Without
   * it, the browser sends the cookie of a login at the gateway, to a page of the gateway's origin.
   */
  token?: Token;
  /** Implementation of WebSocket. Needed where the runtime has none: Node.js before 22. */
  WebSocket?: unknown;
  /** How long to connect again after a connection broke. Sessions 60,000; nodes without limit. */
  reconnectMs?: number;
}

export interface SessionOptions extends Connecting {
  /** Encoding of the audio: PCM16 (mono, little-endian) unless given. */
  encoding?: "pcm16" | "opus";
  /** Sample rate in Hz, 8,000 to 48,000; 16,000 unless given. */
  sampleRate?: number;
  /** Receive partial results; true unless given. */
  partials?: boolean;
  /** The gateway finds the ends of utterances: PCM16 of 8,000 or 16,000 Hz. */
  endpointing?: boolean;
  /** Bytes of audio that wait to be acknowledged; 2 MiB unless given, a minute at 16 kHz. */
  bufferBytes?: number;
  onStateChange?: (state: SessionState) => void;
  /** The system stores nothing for now; the session waits and goes on by itself. */
  onBackpressure?: (backpressure: { retryAfterMs: number; cause: string }) => void;
  /** The gateway did not accept something; the session goes on. */
  onError?: (error: EventschedError) => void;
}

export interface OpenOptions extends SessionOptions {
  /** Language that is spoken, such as `en`, or `auto`. */
  source: string;
  /** Languages that the speaker wants, at most 8. */
  targets?: string[];
  features?: string[];
  /** Room of the tenant; its members hear each other. */
  room?: string;
  /** Language in which this session hears the other members of the room. */
  listenLanguage?: string;
  /** 0 interactive, 1 normal, 2 background. */
  priority?: 0 | 1 | 2;
  traceparent?: string;
  /** Needed if the token is for all tenants. */
  tenant?: string;
}

export interface ResumeOptions extends SessionOptions {
  /** Id of the session. */
  session: string;
  resumeToken: string;
  /** Id of the last outcome that was handled. */
  resultsAfter?: string;
}

export type SessionState = "connecting" | "open" | "away" | "closed" | "failed";

export interface Outcome {
  type: "result" | "no_speech" | "failed" | "missing" | "partial" | "truncated";
  id: string;
  /** Session that spoke; in a room it may be another one. */
  session: string;
  utterance: number;
  target: string;
  /** Number in the order of session and target, from 0 without holes; undefined for a partial. */
  deliveryNo?: number;
  /** The translation. */
  text: string | null;
  /** The transcript. */
  sourceText: string;
  language: string;
  /** Synthesised speech. */
  audio: Uint8Array | null;
  /** Why, if the outcome is `failed`, `missing` or `no_speech`. */
  code: string;
  /** Class of the exception with which the handler failed, if that is known. */
  errorType: string;
  /** First line of its text; empty if the token hides texts. */
  errorMessage: string;
  isEncrypted: boolean;
  isUnreadable: boolean;
}

/** A session at a gateway. It outlives its connections. */
export class Session {
  private constructor();
  /** Open a session. Rejects if the first connection fails or the gateway does not accept it. */
  static open(url: string | URL, options: OpenOptions): Promise<Session>;
  /** Go on with a session that this or another process has opened. */
  static resume(url: string | URL, options: ResumeOptions): Promise<Session>;

  readonly id: string;
  /** With the id, the right to resume the session. Keep it secret. */
  readonly resumeToken: string;
  /** Index of the current utterance, as last acknowledged. */
  readonly utterance: number;
  readonly state: SessionState;
  readonly bufferedBytes: number;
  /** Whether the buffer is full: `append` would reject with BUFFER_FULL. */
  readonly isFull: boolean;

  /**
   * Append audio. Resolves once the buffer has room for more.
   * PCM16: samples or bytes, as many as there are. Opus: the packets of one chunk, 20 to 1,000 ms.
   */
  append(audio: Int16Array | Uint8Array | ArrayBuffer | Uint8Array[]): Promise<void>;
  /**
   * The utterance ends with the audio that was appended before. `traceparent`: W3C trace context of
   * this utterance; without it, that of the session. A malformed one is reported by `onError`, and
   * the utterance goes on.
   */
  finalize(options?: { traceparent?: string }): void;
  /** Close the session: what was appended is the last utterance. Resolves with its last outcome. */
  close(): Promise<void>;
  /** Leave the session open for `Session.resume`. Resolves once all audio is acknowledged. */
  detach(): Promise<void>;

  /**
   * Iterate over the outcomes until the session ends. An outcome is confirmed when the next one is
   * asked for, unless `confirm` is false. Throws the error that ended the session.
   */
  results(options?: { confirm?: boolean }): AsyncGenerator<Outcome, void, void>;
  /** This outcome and the ones before are handled: the server may delete them. */
  confirm(outcome: Outcome): void;
  /** The audio of a result starts to play: a pause does not complete the utterance meanwhile. */
  playbackStarted(result: Outcome): void;
  playbackEnded(result: Outcome): void;
}

/** Append what the microphone hears to a session of 16 kHz PCM16, until `stop` is called. */
export function captureMicrophone(
  session: Session,
  options: {
    /** URL of capture.worklet.js, on the page's own origin. */
    workletUrl: string | URL;
    /** A MediaStream in place of the microphone. */
    stream?: unknown;
    /** Audio was dropped, because the session's buffer is full. */
    onDropped?: (ms: number) => void;
  },
): Promise<{ stop(): Promise<void> }>;

export interface Job {
  readonly key: string;
  readonly attempt: number;
  readonly session: string;
  readonly utterance: number;
  readonly turn: number;
  readonly source: string;
  readonly target: string;
  readonly features: string[];
  readonly encoding: "pcm16" | "opus";
  readonly sampleRate: number;
  /** Length of the audio, without padding. */
  readonly ms: number;
  /** Silence at the end of the audio, for PCM16. */
  readonly paddingMs: number;
  readonly priority: number;
  readonly traceparent: string;
  /** End of the lease, in milliseconds of the cell's clock. */
  readonly deadlineMs: number;
  /** Earlier texts of the group, oldest first. */
  readonly context: { sourceText: string; text: string | null }[];
  /** Aborted when the attempt no longer belongs to this node. */
  readonly signal: AbortSignal;
  /** The whole audio: PCM16, or Opus packets, each preceded by its length. */
  audio(): Promise<Uint8Array>;
  /** Send a preliminary transcript to the listeners. */
  partial(text: string | null, options?: { sourceText?: string }): void;
  /** Extend the lease to so many seconds from now; resolves with its new end. */
  extend(seconds: number): Promise<number>;
}

export interface JobResult {
  /** The translation. */
  text?: string | null;
  /** The transcript. */
  sourceText?: string;
  /** The recognised language, if the source is `auto`. */
  language?: string;
  /** Synthesised speech, at most 512,000 bytes. */
  audio?: Uint8Array | null;
}

export interface NodeOptions extends Connecting {
  name: string;
  /** Source languages that the node recognises; `auto` if it detects the language. */
  sources: string[];
  targets: string[];
  features?: string[];
  /** Attempts that run at the same time; 1 unless given. */
  slots?: number;
  version?: string;
  /** Receive audio when a handler asks for it, not with each job. */
  lazyAudio?: boolean;
  /** Does a job. Returns nothing if there is no speech; throws a JobError to fail. */
  handler: (job: Job) => Promise<JobResult | null | undefined | void>;
  onStateChange?: (state: "registered" | "away" | "ended") => void;
  /** A handler threw, or the gateway did not accept something; the node goes on. */
  onError?: (error: unknown) => void;
}

/** A node at a gateway. */
export class Node {
  constructor(url: string | URL, options: NodeOptions);
  /** Full id of the node, once it is registered. */
  readonly id: string;
  /** Register and serve. Resolves once the node is drained, by `drain` or by an operator. */
  run(): Promise<void>;
  /** Take no new jobs; `run` resolves when the running ones have ended, 60 s unless given. */
  drain(options?: { withinMs?: number }): void;
}

/** An error of the gateway, or of the connection to it. */
export class EventschedError extends Error {
  constructor(
    code: string,
    message: string,
    details?: { field?: string; limit?: string; remedy?: string; retryAfterMs?: number },
  );
  /** A stable code, such as INVALID_MESSAGE. */
  readonly code: string;
  readonly field: string;
  readonly limit: string;
  readonly remedy: string;
  readonly retryAfterMs: number;
}

/** Thrown by a handler that cannot do the job: the attempt fails. */
export class JobError extends Error {
  /**
   * @param code Why; 1 to 64 characters of A-Z, 0-9 and _.
   * @param options.retryInMs The backoff before the next attempt, 0 to 10,000 ms, up to a quarter
   *   more; such a failure is retryable. null for the setting `retry_backoff_ms`.
   */
  constructor(
    code: string,
    options?: { retryable?: boolean; feature?: string; retryInMs?: number | null },
  );
  readonly code: string;
  readonly retryable: boolean;
  readonly feature: string;
  readonly retryInMs: number | null;
}
