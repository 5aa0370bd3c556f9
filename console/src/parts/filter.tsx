// The fields that select what a list shows; their values are part of the address.
import { link, type Place } from "../route";

export interface Field {
  name: string;
  label: string;
  options?: string[];
  hint?: string;
}

export function Filter({ place, fields }: { place: Place; fields: Field[] }) {
  const onSubmit = (event: SubmitEvent) => {
    event.preventDefault();
    const values = new FormData(event.currentTarget as HTMLFormElement);
    const query = Object.fromEntries([...values].map(([name, value]) => [name, String(value)]));
    location.hash = link(place.page, place.id, query);
  };
  return (
    <form class="filter" onSubmit={onSubmit}>
      {fields.map(({ name, label, options, hint }) => (
        <label key={name}>
          {label}{" "}
          {options ? (
            <select name={name} value={place.query[name] ?? options[0]}>
              {options.map((each) => (
                <option value={each} key={each}>
                  {each || "all"}
                </option>
              ))}
            </select>
          ) : (
            <input name={name} value={place.query[name] ?? ""} placeholder={hint} />
          )}
        </label>
      ))}
      <button type="submit">Show</button>
    </form>
  );
}
