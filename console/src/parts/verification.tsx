// Verifies the archive on request: the progress, then what is wrong and which events that affects.
import { useEffect, useRef, useState } from "preact/hooks";
import { Command } from "./command";
import { address } from "../api";
import { number, plural } from "../format";

interface Report {
  is_clean: boolean;
  is_key_checked: boolean;
  verdict: string;
  key: string;
  zone: string;
  reach: string[];
  set_aside: string[];
  problems: { where: string; what: string; means: string; affects: string }[];
}

export function Verification() {
  const stream = useRef<EventSource | null>(null);
  const [progress, setProgress] = useState<{ verified: number; total: number } | null>(null);
  const [report, setReport] = useState<Report | null>(null);
  const [failure, setFailure] = useState("");
  const end = (message = "") => {
    stream.current?.close();
    stream.current = null;
    setProgress(null);
    setFailure(message);
  };
  useEffect(() => () => stream.current?.close(), []);
  const start = () => {
    setReport(null);
    setFailure("");
    setProgress({ verified: 0, total: 0 });
    const source = (stream.current = new EventSource(address("archive/verify")));
    source.addEventListener("progress", (event) => setProgress(JSON.parse(event.data)));
    source.addEventListener("report", (event) => {
      setReport(JSON.parse(event.data));
      end();
    });
    source.addEventListener("failed", (event) => end(JSON.parse(event.data).message));
    // The browser would connect again, which would begin anew.
    source.onerror = () => end("The verification did not end: the gateway is away, or another one runs.");
  };
  return (
    <section aria-label="Verification">
      <h2>Verification</h2>
      <p>
        {progress ? (
          <button type="button" onClick={() => end("Stopped.")}>
            Stop
          </button>
        ) : (
          <button type="button" onClick={start}>
            Verify the archive
          </button>
        )}{" "}
        {progress && (
          <>
            <progress max={progress.total || 1} value={progress.verified} aria-label="Verified events" />{" "}
            {number(progress.verified)} of {plural(progress.total, "event")}
          </>
        )}
      </p>
      <div role="status">
        {failure && <p class="note error">{failure}</p>}
        {report && <ReportView report={report} />}
      </div>
    </section>
  );
}

function ReportView({ report }: { report: Report }) {
  const isUnproven = report.is_clean && !report.is_key_checked;
  return (
    <div class={report.is_clean ? "note good" : "note error"}>
      <strong>{isUnproven ? "No change found. Who signed it is not proven" : report.verdict}</strong>
      {isUnproven && <p>{report.verdict}</p>}
      {report.problems.length > 0 && (
        <ul>
          {report.problems.map((each) => (
            <li key={each.where + each.what}>
              <code>{each.where}</code>: {each.what}
              <p>It means: {each.means}.</p>
              {each.affects && <p>It affects: {each.affects}.</p>}
            </li>
          ))}
        </ul>
      )}
      <ul>
        {[...report.set_aside.map((text) => `Set aside: ${text}`), ...report.reach, report.key].map((text) => (
          <li key={text}>{text}</li>
        ))}
        <li>The times here are {report.zone}, the zone of the gateway.</li>
      </ul>
      {!report.is_key_checked && (
        <>
          <p>
            To prove who signed it, and that no end is missing, verify a copy of the archive with a key and a checkpoint
            that were stored elsewhere:
          </p>
          <p>
            <Command text="eventsched audit verify ARCHIVE --key archive.pub --checkpoint checkpoint.json" />
          </p>
        </>
      )}
    </div>
  );
}
