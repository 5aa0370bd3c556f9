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

/** Thrown by the handler of a node that cannot do the job: the attempt fails. */
export class JobError extends Error {
  /**
   * @param {string} code Why; 1 to 64 characters of A-Z, 0-9 and _.
   * @param {{retryable?: boolean, feature?: string}} [options] Whether another node may try; with
   *   MODEL_NOT_AVAILABLE, the feature of the job whose model is missing.
   */
  constructor(code, { retryable = false, feature = "" } = {}) {
    super(code);
    this.name = "JobError";
    this.code = code;
    this.retryable = retryable;
    this.feature = feature;
  }
}
