/**
 * BullMQ, a program with the same two commands as the others (see harness.py).
 *
 * Settings: 256 jobs at a time, a unique id for each job, jobs removed when they are done; many jobs
 * go in one call of addBulk.
 */
import { existsSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const count = Number(process.env.BENCH_COUNT);
const rate = Number(process.env.BENCH_RATE ?? "0");
const out = process.env.BENCH_OUT;
const working = out.replace(/\.json$/, ".working");
const connection = new Redis(process.env.BENCH_URL, { maxRetriesPerRequest: null });
const concurrency = 256;
const batch = 500;
const hello = -1;
const helloMs = 30_000;

const nowNs = () => (performance.timeOrigin + performance.now()) * 1e6;

function work() {
  const starts = [];
  let cpuBefore;
  const handle = async ({ data }) => {
    const now = nowNs();
    if (data.number === hello) return writeFileSync(working, "");
    cpuBefore ??= process.cpuUsage();
    starts.push([data.number, data.calledNs, now]);
    if (starts.length === count) {
      const used = process.cpuUsage(cpuBefore);
      const record = { jobs: starts, cpu_s: (used.user + used.system) / 1e6 };
      writeFileSync(`${out}.draft`, JSON.stringify(record));
      renameSync(`${out}.draft`, out);
    }
  };
  const worker = new Worker("bench", handle, { connection, concurrency });
  process.on("SIGTERM", () => worker.close(true).then(() => process.exit(0)));
}

const options = (number) => ({
  jobId: `job-${number}`,
  removeOnComplete: true,
  removeOnFail: true,
});

async function produce() {
  const queue = new Queue("bench", { connection });
  const add = (number) => queue.add("nothing", { number, calledNs: nowNs() }, options(number));
  if (rate === 0) {
    for (let first = 0; first < count; first += batch) {
      const numbers = Array.from({ length: Math.min(batch, count - first) }, (_, i) => first + i);
      await queue.addBulk(
        numbers.map((number) => ({
          name: "nothing",
          data: { number, calledNs: nowNs() },
          opts: options(number),
        })),
      );
    }
  } else {
    await add(hello);
    await untilWorking();
    await openLoop(add);
  }
  await queue.close();
  connection.disconnect();
}

async function untilWorking() {
  const ends = performance.now() + helloMs;
  while (!existsSync(working)) {
    if (performance.now() > ends) throw new Error("the worker does not work");
    await sleep(10);
  }
}

async function openLoop(add) {
  const begins = performance.now();
  const calls = [];
  for (let number = 0; number < count; number += 1) {
    const wait = begins + (number / rate) * 1000 - performance.now();
    if (wait > 0) await sleep(wait);
    calls.push(add(number));
  }
  await Promise.all(calls);
}

await { work, produce }[process.argv[2]]();
