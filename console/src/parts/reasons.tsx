// Why each attempt of a job went where it went, in a line each.
import { meaningOf } from "../meanings";
import { inZone } from "../moments";
import { ErrorNote } from "./notes";
import { useReply } from "../reply";
import { link } from "../route";
import type { Explanation } from "../types";

export function Reasons({ job, news }: { job: string; news: number }) {
  const { data, error } = useReply<Explanation>(`jobs/${encodeURIComponent(job)}/why`, {}, 0, news);
  return (
    <section aria-label="Reasons">
      {error && <ErrorNote error={error} />}
      {data && (
        <ul class="reasons">
          {data.decisions.map((each) => (
            <li key={each.id}>
              Attempt {each.attempt}: {each.node ? <a href={link("node", each.node)}>{each.node}</a> : "waits"} ·{" "}
              <code>{each.rule || each.reason}</code> {inZone(each.detail, each.until_ms) || meaningOf(each.rule || each.reason)}
              {each.nodes.length > 0 &&
                ` (${each.nodes.map((node) => `${node.node} ${node.verdict}`).slice(0, 4).join(", ")})`}
            </li>
          ))}
        </ul>
      )}
      <p>
        <a href={link("job", job)}>Why this node? All reasons and stages</a>
      </p>
    </section>
  );
}
