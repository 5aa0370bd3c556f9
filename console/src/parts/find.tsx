// A field for an id, which leads to its page: a list shows some of its items only.
import { link } from "../route";

export function Find({ page, label, hint }: { page: string; label: string; hint?: string }) {
  const onSubmit = (event: SubmitEvent) => {
    event.preventDefault();
    const id = String(new FormData(event.currentTarget as HTMLFormElement).get("id")).trim();
    if (id) location.hash = link(page, id);
  };
  return (
    <form class="filter" onSubmit={onSubmit}>
      <label>
        {label} <input name="id" placeholder={hint} />
      </label>
      <button type="submit">Open</button>
    </form>
  );
}
