// The fields that select what a list shows; their values are part of the address. What a reader types stays
// when the page reads again: the fields have default values only.
import { useState } from "preact/hooks";
import { ZONE } from "../format";
import { NO_TIME, positionOf, shown, TIME_HINT } from "../moments";
import { link, type Place } from "../route";

export interface Field {
  name: string;
  label: string;
  options?: string[];
  hint?: string;
  /** The field is a time in the zone of the page; the address has it in UTC. */
  isTime?: boolean;
}

export function Filter({ place, fields }: { place: Place; fields: Field[] }) {
  const [problem, setProblem] = useState("");
  const times = new Set(fields.filter((each) => each.isTime).map((each) => each.name));
  const onSubmit = (event: SubmitEvent) => {
    event.preventDefault();
    const values = new FormData(event.currentTarget as HTMLFormElement);
    const query: Record<string, string> = {};
    for (const [name, value] of values) {
      const text = times.has(name) ? positionOf(String(value), { isEnd: true }) : String(value);
      if (text === null) return setProblem(NO_TIME);
      query[name] = text;
    }
    setProblem("");
    location.hash = link(place.page, place.id, query);
  };
  return (
    <form class="filter" onSubmit={onSubmit}>
      {fields.map(({ name, label, options, hint, isTime }) => (
        <label key={name}>
          {label}
          {isTime && `, ${ZONE}`}{" "}
          {options ? (
            <select name={name} key={place.query[name]}>
              {optionsOf(options, place.query[name]).map((each) => (
                <option value={each} key={each} selected={each === (place.query[name] ?? options[0])}>
                  {shown(each) || "all"}
                </option>
              ))}
            </select>
          ) : isTime ? (
            <input name={name} class="time" defaultValue={shown(place.query[name] ?? "")} key={place.query[name]} placeholder={TIME_HINT} />
          ) : (
            <input name={name} defaultValue={place.query[name] ?? ""} key={place.query[name]} placeholder={hint} />
          )}
        </label>
      ))}
      <button type="submit">Show</button>
      {problem && <p class="problem" role="alert">{problem}.</p>}
    </form>
  );
}

/** The options, and what the address has instead of one. */
const optionsOf = (options: string[], value = "") => (value && !options.includes(value) ? [value, ...options] : options);
