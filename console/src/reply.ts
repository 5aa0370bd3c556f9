// Hooks that read a route. Owns: reading again, pausing in a hidden page, the last error.
import { useEffect, useState } from "preact/hooks";
import { ApiError, get } from "./api";

export interface Reply<T> {
  /** The last reply; it stays on the page while a later read fails. */
  data: T | null;
  error: ApiError | null;
}

/** Read a route now, when `news` changes, and every `everyMs` while the page is visible; 0: never. */
export function useReply<T>(
  path: string,
  query: Record<string, string> = {},
  everyMs = 0,
  news = 0,
): Reply<T> {
  const key = `${path}?${new URLSearchParams(query)}`;
  const [reply, setReply] = useState<Reply<T> & { key: string }>({ key, data: null, error: null });
  useEffect(() => {
    if (!path) return;
    let timer = 0;
    let ended = false;
    const read = async () => {
      try {
        const data = document.hidden ? undefined : await get<T>(path, query);
        if (!ended && data !== undefined) setReply({ key, data, error: null });
      } catch (error) {
        if (!ended && error instanceof ApiError)
          setReply((last) => ({ key, data: last.key === key ? last.data : null, error }));
      }
      if (!ended && everyMs) timer = window.setTimeout(read, everyMs);
    };
    void read();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [key, everyMs, news]);
  return reply.key === key ? reply : { data: null, error: null };
}
