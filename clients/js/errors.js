// The errors of the client. Owns: both classes, the form of an error from a frame.

/** An error of the gateway, or of the connection to it. */
export class EventschedError extends Error {
  /**
   * @param {string} code A stable code, such as INVALID_MESSAGE.
   * @param {string} message The same for people, in one line.
   * @param {{field?: string, limit?: string, remedy?: string, retryAfterMs?: number}} [details]
   */
  constructor(code, message, { field = "", limit = "", remedy = "", retryAfterMs = 0 } = {}) {
    super(message || code);
    this.name = "EventschedError";
    this.code = code;
    this.field = field;
    this.limit = limit;
    this.remedy = remedy;
    this.retryAfterMs = retryAfterMs;
  }

  /** @param {Record<string, any>} frame A frame `error`. */
  static of(frame) {
    return new EventschedError(String(frame.code), frame.message ?? "", {
      field: frame.field,
      limit: frame.limit,
      remedy: frame.remedy,
      retryAfterMs: frame.retry_after_ms,
    });
  }
}

const RETRY_IN_MS_MAX = 10_000;

/** Thrown by the handler of a node that cannot do the job: the attempt fails. */
export class JobError extends Error {
  /**
   * @param {string} code Why; 1 to 64 characters of A-Z, 0-9 and _.
   * @param {{retryable?: boolean, feature?: string, retryInMs?: number | null}} [options] Whether
   *   another node may try; with MODEL_NOT_AVAILABLE, the feature of the job whose model is missing;
   *   the backoff before the next attempt, 0 to 10,000 ms: such a failure is retryable.
   */
  constructor(code, { retryable = false, feature = "", retryInMs = null } = {}) {
    super(code);
    const isGiven = retryInMs !== null;
    if (isGiven && !(Number.isInteger(retryInMs) && retryInMs >= 0 && retryInMs <= RETRY_IN_MS_MAX)) {
      throw new EventschedError("INVALID_MESSAGE", `retryInMs: ${String(retryInMs).slice(0, 80)}`, {
        field: "retryInMs",
        limit: `a whole number from 0 to ${RETRY_IN_MS_MAX}`,
      });
    }
    this.name = "JobError";
    this.code = code;
    this.retryable = retryable || isGiven;
    this.feature = feature;
    this.retryInMs = retryInMs;
  }
}
