// Resamples float samples of standard input (little-endian) to 16 kHz, in blocks as a page gets them.
//
//     node tests/js/resample.mjs RATE < INPUT > OUTPUT
import { readFileSync, writeSync } from "node:fs";
import { Resampler } from "../../clients/js/capture.worklet.js";

const BLOCK = 128;
const bytes = readFileSync(0);
const input = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const resampler = new Resampler(Number(process.argv[2]));
for (let start = 0; start < input.length; start += BLOCK) {
  const output = resampler.process(input.slice(start, start + BLOCK));
  const data = new Uint8Array(output.buffer, output.byteOffset, output.byteLength);
  for (let at = 0; at < data.length; ) at += writeSync(1, data, at);
}
