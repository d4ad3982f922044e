// Generates with transformers.js from the repository below this folder that is named, and
// prints all tokens: GENERATE REPOSITORY PROMPTS STEPS, with prompts as JSON. Shorter prompts
// are padded on the left.

import { AutoModelForCausalLM, Tensor, env } from "@huggingface/transformers";

const [repository, prompts, steps] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = ".";
const model = await AutoModelForCausalLM.from_pretrained(repository, { dtype: "fp32", device: "cpu" });
const rows = JSON.parse(prompts);
const width = Math.max(...rows.map((row) => row.length));
const padded = (fill, values) => [...Array(width - values.length).fill(fill), ...values];
const tensor = (rows) => new Tensor("int64", BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, width]);
const tokens = await model.generate({
  input_ids: tensor(rows.map((row) => padded(0, row))),
  attention_mask: tensor(rows.map((row) => padded(0, row.map(() => 1)))),
  max_new_tokens: Number(steps),
  do_sample: false,
});
console.log(JSON.stringify(tokens.tolist().map((row) => row.map(Number))));
