// Continues texts with transformers.js, each over the cache of the one before it, which it begins
// with, and prints all tokens of each: TURNS REPOSITORY TEXTS STEPS, with texts as JSON.

import { AutoModelForCausalLM, DynamicCache, Tensor, env } from "@huggingface/transformers";

const [repository, texts, steps] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = ".";
const model = await AutoModelForCausalLM.from_pretrained(repository, { dtype: "fp32", device: "cpu" });
const past_key_values = new DynamicCache();
const tensor = (row) => new Tensor("int64", BigInt64Array.from(row.map(BigInt)), [1, row.length]);
const found = [];
for (const text of JSON.parse(texts)) {
  const tokens = await model.generate({
    input_ids: tensor(text),
    attention_mask: tensor(text.map(() => 1)),
    max_new_tokens: Number(steps),
    do_sample: false,
    past_key_values,
  });
  found.push(tokens.tolist()[0].map(Number));
}
console.log(JSON.stringify(found));
