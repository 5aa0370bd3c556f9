// The archive: how far it reaches, whether it was changed, proofs to download, and SQL over it.
import { number, time, msOf, ZONE } from "../format";
import { useState } from "preact/hooks";
import { Command } from "../parts/command";
import { Download } from "../parts/download";
import { Empty, Loaded } from "../parts/notes";
import { Query } from "../parts/query";
import { Segments } from "../parts/segments";
import { Verification } from "../parts/verification";
import { useReply } from "../reply";

const READ_MS = 10_000;

interface CellArchive {
  cell: string;
  segments: number;
  events: number;
  last: string;
  root: string;
  key: string;
}

export function Audit() {
  const reply = useReply<CellArchive[]>("archive", {}, READ_MS);
  return (
    <>
      <h1>Audit</h1>
      <Loaded reply={reply}>
        {(cells) => (
          <>
            {cells.length === 0 && <Empty>The archive has no segment yet: the archiver seals the log by and by.</Empty>}
            {cells.map((cell) => (
              <section key={cell.cell} aria-label={`Archive of cell ${cell.cell}`}>
                <h2>Archive of cell {cell.cell}</h2>
                <dl class="tiles">
                  <Tile name="Segments" value={number(cell.segments)} />
                  <Tile name="Events" value={number(cell.events)} />
                  <Tile name="Reaches to" value={cell.last && `${time(msOf(cell.last))}, ${ZONE}`} />
                  <Tile name="Signed by key" value={cell.key} />
                </dl>
                <p>
                  Root of the signed tree: <code>{cell.root}</code>
                </p>
                <Segments cell={cell.cell} />
              </section>
            ))}
            {cells.length > 0 && (
              <>
                <Verification />
                <Proofs keys={[...new Set(cells.map((cell) => cell.key))]} />
                <Query />
              </>
            )}
          </>
        )}
      </Loaded>
    </>
  );
}

function Tile({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function Proofs({ keys }: { keys: string[] }) {
  const [event, setEvent] = useState("");
  const [proof, setProof] = useState("");
  return (
    <section aria-label="Proofs">
      <h2>Checkpoint and proofs</h2>
      <p>
        A checkpoint is the signed head of each cell. Keep it in another place than the archive: with it, a
        verification by <code>eventsched audit verify --checkpoint</code> also finds segments that were removed.
      </p>
      <p class="acts">
        <Download text="Download the checkpoint" path="archive/checkpoint" file="checkpoint.json" />
        <Download text="Download the public key" path="archive/public-key" file="archive.pub" />
      </p>
      <div class="filter">
        <label>
          Id of an event{" "}
          <input value={event} placeholder="1700000000000-0" onInput={(each) => setEvent(each.currentTarget.value.trim())} />
        </label>
        <Download text="Download its proof" path="archive/proof" query={{ event }} file={`proof-${event}.json`} onSaved={setProof} />
      </div>
      {proof && (
        <div class="note">
          Check the proof in the folder of both files, without the archive and without this system:
          <p>
            <Command text={`eventsched audit check-proof ${proof} --key archive.pub`} />
          </p>
          <p>
            The key is worth what its source is worth: this gateway serves it as it serves the proof. Compare its
            fingerprint, <code>{keys.join(", ")}</code> here, with the one that the owner of the archive tells you by
            another way.
          </p>
        </div>
      )}
    </section>
  );
}
