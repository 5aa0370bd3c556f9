// Calls to the routes of the gateway. Owns: the address of a route, errors as `ApiError`.
// Never does: keep replies.

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

const ROOT = new URL("../v1/", new URL(".", location.href));

/** The address of a route below /v1/, under any base path. */
export function address(path: string, query: Record<string, string> = {}): string {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.append(name, value);
  return url.href;
}

async function call(url: string, init: RequestInit): Promise<Response> {
  let reply: Response;
  try {
    reply = await fetch(url, { ...init, credentials: "same-origin", cache: "no-store" });
  } catch {
    throw new ApiError(0, "AWAY", "The gateway does not answer.");
  }
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => null);
  const error = body?.error ?? {};
  // The message of a refusal ends with its remedy already.
  const remedy = error.message?.includes(error.remedy) ? "" : error.remedy;
  const message = [error.message, remedy].filter(Boolean).join(": ");
  throw new ApiError(reply.status, error.code ?? "INTERNAL", message || `Status ${reply.status}`);
}

async function send<T>(url: string, init: RequestInit): Promise<T> {
  const reply = await call(url, init);
  try {
    return (await reply.json()) as T;
  } catch {
    throw new ApiError(reply.status, "INTERNAL", "The reply is no JSON.");
  }
}

export function get<T>(path: string, query?: Record<string, string>): Promise<T> {
  return send<T>(address(path, query), {});
}

/** Read a file, such as audio. */
export async function getBlob(path: string, query?: Record<string, string>): Promise<Blob> {
  return (await call(address(path, query), {})).blob();
}

/** Send an act of an operator. The header shows that a page of this gateway sends it. */
export function post<T>(path: string, body?: object): Promise<T> {
  return send<T>(address(path), {
    method: "POST",
    headers: { "content-type": "application/json", "x-eventsched-csrf": "1" },
    body: body && JSON.stringify(body),
  });
}
