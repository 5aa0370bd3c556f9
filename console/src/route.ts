// The address of a page: `#/PAGE/ID?name=value`. The gateway sees none of it.
import { useEffect, useState } from "preact/hooks";

export interface Place {
  page: string;
  id: string;
  query: Record<string, string>;
}

export function link(page: string, id = "", query: Record<string, string> = {}): string {
  const named = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
  return `#/${page}${id ? `/${encodeURIComponent(id)}` : ""}${named.size ? `?${named}` : ""}`;
}

export function parse(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [page = "", id = ""] = path.split("/");
  return { page, id: decodeURIComponent(id), query: Object.fromEntries(new URLSearchParams(query)) };
}

export function usePlace(): Place {
  const [place, setPlace] = useState(() => parse(location.hash));
  useEffect(() => {
    const onChange = () => setPlace(parse(location.hash));
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return place;
}
