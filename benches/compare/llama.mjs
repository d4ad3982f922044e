// Runs a GGUF in llama.cpp as engine.py runs a model in onnxruntime: the same request, the same
// answer. Arguments: the folder of node_modules with node-llama-cpp, and the request as JSON.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";

const PROMPT_LIMIT = 60; // seconds, as in engine.py
const [modules, text] = process.argv.slice(2);
const request = JSON.parse(text);
const entry = path.resolve(modules, "node_modules/node-llama-cpp/dist/index.js");
const { getLlama } = await import(pathToFileURL(entry));

const seconds = async (run) => {
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1e3;
};
const resident = () => process.memoryUsage.rss();
const threads = os.cpus().length;
const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
let model;
const load = await seconds(async () => (model = await llama.loadModel({ modelPath: request.model })));
const afterLoad = resident();
const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads });
const sequence = context.getSequence();

// The token that follows those that the sequence has and these, as generation needs it.
const step = (ids) => {
  const last = [ids.at(-1), { generateNext: { token: true } }];
  return sequence.controlledEvaluate([...ids.slice(0, -1), last]);
};
const prompt = async (ids) => {
  await sequence.clearHistory();
  await step(ids);
};
const logitsOf = (ids) =>
  sequence.controlledEvaluate(ids.map((id) => [id, { generateNext: { logits: true } }]));

async function speed() {
  const vocabulary = request.config.vocab_size;
  let state = 12345;
  const ids = Array.from({ length: 1024 }, () => (state = (state * 48271) % 0x7fffffff) % vocabulary);
  await prompt(ids.slice(0, 1));
  const prompts = {};
  let pace = 0;
  for (const count of request.prompts) {
    prompts[count] = null;
    if (pace * count > PROMPT_LIMIT) continue;
    const runs = [];
    for (let run = 0; run < 2; run++) runs.push(await seconds(() => prompt(ids.slice(0, count))));
    prompts[count] = Math.min(...runs);
    pace = prompts[count] / count;
  }
  const steps = [];
  for (let at = 0; at < 24; at++) steps.push(await seconds(() => step([ids[at]])));
  steps.sort((one, other) => one - other);
  return { load, resident: afterLoad, prompts, step: (steps[11] + steps[12]) / 2 };
}

// As engine.py: the logits of a prompt, and of 8 more tokens given one by one.
async function logits() {
  const file = fs.readFileSync(request.ids);
  const data = file.subarray(10 + file.readUInt16LE(8));
  const ids = Array.from({ length: data.length / 8 }, (_, at) => Number(data.readBigInt64LE(8 * at)));
  const size = request.config.vocab_size;
  const rows = await logitsOf(ids.slice(0, -8));
  for (const id of ids.slice(-8)) rows.push(...(await logitsOf([id])));
  const found = new Float32Array(rows.length * size);
  rows.forEach((row, at) => row.next.logits.forEach((logit, token) => (found[at * size + token] = logit)));
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows.length}, ${size}), }`;
  const padded = header.padEnd(117) + "\n"; // data begin at byte 128
  const magic = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, padded.length, 0]);
  fs.writeFileSync(request.logits, Buffer.concat([magic, Buffer.from(padded), Buffer.from(found.buffer)]));
  return {};
}

console.log(JSON.stringify(await ("ids" in request ? logits() : speed())));
process.exit(0);
