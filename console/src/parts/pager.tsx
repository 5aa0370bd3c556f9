// The links of a list that is read by pages.
import { link, type Place } from "../route";

export function Pager({ place, next }: { place: Place; next: string }) {
  const { after, ...query } = place.query;
  if (!after && !next) return null;
  return (
    <nav class="pager" aria-label="Pages of the list">
      {after && <a href={link(place.page, place.id, query)}>First page</a>}
      {next && <a href={link(place.page, place.id, { ...query, after: next })}>Next page</a>}
    </nav>
  );
}
