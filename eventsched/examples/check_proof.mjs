// Checks a proof of `eventsched audit prove` without eventsched, by Node.js alone:
//
//     node eventsched/examples/check_proof.mjs PROOF TRUSTED_PUBLIC_KEY
//
// It prints the entry and ends with 0 if the trusted key has signed a history with this entry, under
// this id, at this position of this segment. Otherwise it says why not and ends with 1.
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";

// The fields of a proof in their order; each value is a whole number, a hash or another text.
const NUMBERS = { format: 2 ** 53, n: 1e9, events: 1e9, segments: 1e9, position: 1e14, skipped: 1e14 };
const FIELDS = ["format", "id", "entry", "position", "path", "segment", "segment_path", "head"];
const SEGMENT = ["format", "n", "cell", "first", "last", "events", "root"];
const HEAD = ["format", "cell", "segments", "skipped", "events", "last", "root", "records", "key", "signature"];
const PROOF_BYTES_MAX = 2 << 20;

// A text of the proof in visible ASCII: it may be anybody's, and steers no terminal.
const show = (text) => JSON.stringify(String(text)).slice(1, -1).replace(/[^ -~]/g,
  (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
const fail = (why) => { console.log(`not proven: ${show(why)}`); process.exit(1); };
const require = (holds, why) => { if (!holds) fail(why); };
const hash = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest();
const leafHash = (...parts) => hash(Buffer.from([0]), ...parts);
const bytesOf = (text) => {
  const bytes = Buffer.from(text, "base64");
  require(bytes.toString("base64") === text, "base64 in another form");
  return bytes;
};
const idOf = (text) => {
  require(/^[0-9]{1,20}-[0-9]{1,20}$/.test(text), `${text} is no id of an entry`);
  return text.split("-").map(BigInt);
};
const isAfter = ([ms, seq], [otherMs, otherSeq]) => ms > otherMs || (ms === otherMs && seq > otherSeq);

function checkFields(value, names) {
  require(value && JSON.stringify(Object.keys(value)) === JSON.stringify(names), "other fields");
  for (const name of names) {
    const field = value[name];
    if (name === "segment" || name === "head") continue;
    if (name in NUMBERS) {
      require(Number.isSafeInteger(field) && field >= 0 && field < NUMBERS[name], `another ${name}`);
    } else {
      require(typeof field === "string", `another ${name}`);
      if (name === "root" || name === "records") require(/^[0-9a-f]{64}$/.test(field), `another ${name}`);
    }
  }
}

// RFC 9162, section 2.1.3.2: the root that the path gives for a leaf at `index` of `size` leaves.
function rootOf(leaf, index, size, path) {
  require(Number.isSafeInteger(index) && index >= 0 && index < size, "a position outside of its tree");
  require(path.length % 32 === 0, "a path of broken hashes");
  let root = leaf;
  for (let at = index, last = size - 1; last > 0; at = Math.floor(at / 2), last = Math.floor(last / 2)) {
    if (at % 2 === 0 && at === last) continue; // the last node of its level has no sibling
    require(path.length > 0, "a path that is too short");
    const sibling = path.subarray(0, 32);
    path = path.subarray(32);
    root = at % 2 ? hash(Buffer.from([1]), sibling, root) : hash(Buffer.from([1]), root, sibling);
  }
  require(path.length === 0, "a path that is too long");
  return root.toString("hex");
}

try {
  const [proofFile, keyFile] = process.argv.slice(2);
  const text = readFileSync(proofFile, "utf8");
  require(Buffer.byteLength(text) <= PROOF_BYTES_MAX, "too many bytes");
  const proof = JSON.parse(text);
  require(`${JSON.stringify(proof)}\n` === text, "JSON in another form");
  const { format, entry, head, id, path, position, segment, segment_path: segmentPath } = proof;
  checkFields(proof, FIELDS);
  checkFields(segment, SEGMENT);
  checkFields(head, HEAD);
  require(format === 1, "another format");

  // The head, signed by the trusted key.
  const key = bytesOf(readFileSync(keyFile, "utf8").replace("eventsched archive ed25519 ", "").trim());
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), key]);
  const signed = `eventsched archive head 1\n${JSON.stringify({ ...head, signature: "" })}`;
  const publicKey = createPublicKey({ key: der, format: "der", type: "spki" });
  require(head.key === key.toString("base64")
    && verify(null, Buffer.from(signed), publicKey, bytesOf(head.signature)), "signed by another key");

  // The entry, whose bytes begin with its id: an array (0x92 or 0x9a) of byte strings (0xc4, length).
  const deflated = bytesOf(entry);
  const { buffer: stored, engine } = inflateSync(deflated, { maxOutputLength: 1 << 20, info: true });
  require(engine.bytesWritten === deflated.length, "more than one deflated entry");
  require([0x92, 0x9a].includes(stored[0]) && stored[1] === 0xc4, "bytes that are no entry");
  require(stored.subarray(3, 3 + stored[2]).toString("latin1") === id, "an entry with another id");
  require(!isAfter(idOf(segment.first), idOf(id)) && !isAfter(idOf(id), idOf(segment.last)),
    "an entry outside of its segment");

  // From the entry's leaf to the segment's root, from the segment's leaf to the head's root.
  const place = Buffer.alloc(8);
  place.writeBigUInt64BE(BigInt(position));
  const entryLeaf = leafHash(Buffer.from("eventsched entry 1\n"), place, stored);
  const segmentLeaf = leafHash(Buffer.from(`eventsched segment 1\n${JSON.stringify(segment)}`));
  require(rootOf(entryLeaf, position, segment.events, bytesOf(path)) === segment.root,
    "a path that does not lead to the segment");
  require(rootOf(segmentLeaf, segment.n, head.segments, bytesOf(segmentPath)) === head.root,
    "a path that does not lead to the head");
  require(segment.cell === head.cell, "a segment of another cell");
  console.log(`proven: ${id} of cell ${show(head.cell)} is entry ${position + 1} of segment ${segment.n}`);
} catch (error) {
  fail(error.message);
}
