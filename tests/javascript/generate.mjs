// Generates with transformers.js from the repository below this folder that is named, and
// prints all tokens: GENERATE REPOSITORY PROMPTS STEPS, with prompts as JSON.

import { AutoModelForCausalLM, Tensor, env } from "@huggingface/transformers";

const [repository, prompts, steps] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = ".";
const model = await AutoModelForCausalLM.from_pretrained(repository, { dtype: "fp32", device: "cpu" });
const rows = JSON.parse(prompts);
const ids = BigInt64Array.from(rows.flat().map(BigInt));
const shape = [rows.length, rows[0].length];
const tokens = await model.generate({
  input_ids: new Tensor("int64", ids, shape),
  attention_mask: new Tensor("int64", ids.map(() => 1n), shape),
  max_new_tokens: Number(steps),
  do_sample: false,
});
console.log(JSON.stringify(tokens.tolist().map((row) => row.map(Number))));
