// A chat with a model that was exported for transformers.js.

import {
  AutoModelForCausalLM,
  AutoTokenizer,
  DynamicCache,
  InterruptableStoppingCriteria,
  env,
} from "@huggingface/transformers";

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((it) => [it.id, it]));
const stopping = new InterruptableStoppingCriteria();
const conversation = [];

function say(sentence, failed = false) {
  page.status.textContent = sentence;
  page.status.classList.toggle("failed", failed);
}

/** The response to a request for a file of the model. */
async function request(url, method = "GET", advice = "copy that of the checkpoint there") {
  const response = await fetch(url, { method });
  if (!response.ok) throw new Error(`${url} does not exist (status ${response.status}): ${advice}`);
  return response;
}

/** Why no GPU can run a model with caches of this dtype; undefined if one can. */
async function obstacle(dtype) {
  if (!isSecureContext) return "WebGPU needs https or localhost";
  if (!navigator.gpu) return "this browser has no WebGPU";
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) return "WebGPU finds no GPU";
  const lacksHalf = dtype === "float16" && !adapter.features.has("shader-f16");
  return lacksHalf ? "the GPU does not compute in float16, as this model does" : undefined;
}

/** Opens the model of a folder that has `config.json`, and the model in `onnx`. */
async function load(folder) {
  const [, parent, name] = folder.pathname.match(/(.*\/)([^/]+)\/$/);
  const config = await request(new URL("config.json", folder), "GET", "?model=FOLDER names the folder above onnx");
  const { "transformers.js_config": exported } = await config.json();
  if (!exported) throw new Error(`${folder}config.json is not of an export for transformers.js`);
  const [[dtype, cacheDtype]] = Object.entries(exported.kv_cache_dtype);
  const reason = await obstacle(cacheDtype);

  Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: parent });
  // The folder may hold another export tomorrow.
  env.useBrowserCache = false;
  const { wasm } = env.backends.onnx;
  // Of packages.js.
  if (packages) wasm.wasmPaths = `${packages}onnxruntime-web/dist/`;
  // On the CPU a worker computes, so that the page stays responsive.
  wasm.proxy = reason !== undefined;
  say(`Loading ${name}`);
  // Without these transformers.js fails with a sentence about its own code.
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) await request(new URL(file, folder), "HEAD");
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  // transformers.js reads a template only if it is in tokenizer_config.json.
  tokenizer.chat_template ??= await (await request(new URL("chat_template.jinja", folder))).text();
  const model = await AutoModelForCausalLM.from_pretrained(name, {
    dtype,
    device: reason ? "wasm" : "webgpu",
    progress_callback({ status, progress }) {
      if (status === "progress_total") page.progress.value = progress / 100;
    },
  });
  say(reason ? `${name} runs on the CPU by WASM, which is slow: ${reason}` : `${name} runs on the GPU by WebGPU`);
  return { tokenizer, model };
}

/** The final text of a reply in harmony, and those of its other channels, such as its analysis. */
function channels(reply) {
  const texts = { final: "", other: "" };
  for (const part of reply.split("<|start|>assistant")) {
    const [header, body] = part.includes("<|message|>") ? part.split("<|message|>") : ["", part];
    const channel = header && !header.startsWith("<|channel|>final") ? "other" : "final";
    // Without a body yet, it is a header that is still being generated.
    if (!body.startsWith("<|channel|>")) texts[channel] += body.replace(/<\|(end|return|call)\|>.*/s, "");
  }
  return texts;
}

/** Adds a message to the log, and returns what shows its texts. */
function addMessage(role) {
  const article = document.createElement("article");
  article.className = role;
  article.ariaLabel = role;
  const [reasoning, thoughts, text] = ["details", "div", "div"].map((it) => document.createElement(it));
  const summary = document.createElement("summary");
  summary.textContent = "Reasoning";
  reasoning.append(summary, thoughts);
  reasoning.hidden = true;
  article.append(reasoning, text);
  page.log.append(article);
  return ({ final, other = "" }) => {
    const follows = page.log.scrollHeight - page.log.scrollTop - page.log.clientHeight < 40;
    [text.textContent, thoughts.textContent, reasoning.hidden] = [final, other, !other];
    if (follows) page.log.scrollTop = page.log.scrollHeight;
  };
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** What the page can know of its memory: browsers tell neither that of WASM nor that of a GPU. */
function memory(cache) {
  const sizes = Object.values(cache).map(({ dims, type }) =>
    dims.reduce((product, size) => product * size, type === "float16" ? 2 : 4),
  );
  const caches = `caches ${megabytes(sizes.reduce((sum, size) => sum + size, 0))}`;
  const heap = performance.memory && `JavaScript ${megabytes(performance.memory.usedJSHeapSize)}`;
  return heap ? `${caches} · ${heap}` : caches;
}

/** Generates the reply to the conversation, and shows it token by token. */
async function reply({ tokenizer, model }) {
  const prompt = tokenizer.apply_chat_template(conversation, { add_generation_prompt: true, return_dict: true });
  const show = addMessage("assistant");
  const past_key_values = new DynamicCache();
  const tokens = [];
  let first, texts;
  const streamer = {
    put([ids]) {
      const now = performance.now();
      // The prompt comes first.
      if (!texts) {
        texts = channels("");
        return;
      }
      first ??= now;
      tokens.push(...ids);
      texts = channels(tokenizer.decode(tokens, { skip_special_tokens: false }));
      show(texts);
      const speed = tokens.length > 1 ? (((tokens.length - 1) * 1000) / (now - first)).toFixed(1) : "–";
      const length = `${tokens.length} tokens after ${prompt.input_ids.dims[1]}`;
      page.measures.textContent = `${speed} tokens/s · ${length} · ${memory(past_key_values)}`;
    },
    end() {},
  };
  stopping.reset();
  try {
    await model.generate({
      ...prompt,
      past_key_values,
      streamer,
      stopping_criteria: stopping,
      do_sample: !page.greedy.checked,
      max_new_tokens: page.limit.valueAsNumber,
    });
  } finally {
    await past_key_values.dispose();
  }
  conversation.push({ role: "assistant", content: texts.final });
}

function setBusy(busy) {
  page.send.disabled = page.clear.disabled = busy;
  page.stop.disabled = !busy;
  page.log.ariaBusy = busy;
}

async function main() {
  const { model: path = "model" } = Object.fromEntries(new URLSearchParams(location.search));
  const loaded = await load(new URL(`${path}/`, location.href));
  page.progress.hidden = true;
  setBusy(false);
  page.form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (page.send.disabled) return;
    setBusy(true);
    conversation.push({ role: "user", content: page.prompt.value });
    addMessage("user")({ final: page.prompt.value });
    page.prompt.value = "";
    await reply(loaded).catch(fail);
    setBusy(false);
    page.prompt.focus();
  });
  page.prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    page.form.requestSubmit();
  });
  page.stop.addEventListener("click", () => stopping.interrupt());
  page.clear.addEventListener("click", () => {
    conversation.length = 0;
    page.log.replaceChildren();
    page.prompt.focus();
  });
  page.prompt.focus();
}

function fail(error) {
  page.progress.hidden = true;
  say(`It failed: ${error.message}`, true);
}

await main().catch(fail);
