// Chats with the page at an address in headless Chromium, and prints what it shows and generates:
// CHAT ADDRESS FLAGS MESSAGES LIMIT, with flags of Chromium and messages as JSON. The last reply is
// stopped after some tokens; all others get at most LIMIT tokens, the likeliest.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [address, flags, messages, limit] = process.argv.slice(2);
const texts = JSON.parse(messages);

/** Starts Chromium: its process, and where it listens. */
async function start(home) {
  const options = ["--headless=new", "--no-sandbox", "--no-first-run", "--remote-debugging-port=0"];
  const browser = spawn("chromium", [...options, ...JSON.parse(flags), `--user-data-dir=${home}`, "about:blank"]);
  let said = "";
  for await (const part of browser.stderr) {
    said += part;
    const found = said.match(/DevTools listening on ws:\/\/([^/]+)/);
    if (found) return [browser, found[1]];
  }
  throw new Error(said);
}

/** Commands of the DevTools protocol for the open page, and what goes wrong in it. */
async function connect(host) {
  const targets = await (await fetch(`http://${host}/json/list`)).json();
  const socket = new WebSocket(targets.find((it) => it.type === "page").webSocketDebuggerUrl);
  await new Promise((resolve) => socket.addEventListener("open", resolve));
  const [waiting, problems] = [new Map(), []];
  socket.addEventListener("message", ({ data }) => {
    const { id, result, error, method, params } = JSON.parse(data);
    if (id) waiting.get(id)(error ? Promise.reject(new Error(error.message)) : result);
    if (method === "Runtime.exceptionThrown") problems.push(params.exceptionDetails.exception?.description);
    if (method === "Log.entryAdded" && params.entry.level === "error") problems.push(params.entry.text);
  });
  const send = (method, params = {}) =>
    new Promise((resolve) => {
      waiting.set(waiting.size + 1, resolve);
      socket.send(JSON.stringify({ id: waiting.size, method, params }));
    });
  for (const domain of ["Runtime", "Log", "Page"]) await send(`${domain}.enable`);
  const evaluate = async (expression) => {
    const found = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (found.exceptionDetails) throw new Error(found.exceptionDetails.exception.description);
    return found.result.value;
  };
  const until = async (condition) => {
    const deadline = Date.now() + 50_000;
    while (!(await evaluate(condition))) {
      if (Date.now() > deadline) throw new Error(`${await evaluate("document.body.innerText")} ${problems}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  return { send, evaluate, until, problems };
}

/** Notes what the page passes to the model, and gets. */
const OBSERVE = `import("@huggingface/transformers").then(async ({ AutoTokenizer, PreTrainedModel: { prototype } }) => {
  const tokenizer = await AutoTokenizer.from_pretrained(new URLSearchParams(location.search).get("model"));
  const { generate } = prototype;
  globalThis.generated = [];
  prototype.generate = async function (options) {
    const tokens = (await generate.call(this, options)).tolist()[0].map(Number);
    const prompt = tokens.splice(0, options.input_ids.dims[1]);
    generated.push({ prompt, tokens, asked: tokenizer.decode(prompt), answered: tokenizer.decode(tokens) });
  };
})`;

const SHOWN = `({
  shown: [...document.querySelectorAll("article > div")].map((it) => it.textContent),
  measures: document.querySelector("#measures").textContent,
  generated: globalThis.generated,
})`;

/** Types messages, and waits for the replies. */
async function converse({ send, evaluate, until }) {
  await evaluate(OBSERVE);
  await evaluate(`document.querySelector("#greedy").click(), document.querySelector("#limit").value = ${limit}`);
  for (const [at, text] of texts.entries()) {
    const isLast = at + 1 === texts.length;
    if (isLast) await evaluate(`document.querySelector("#limit").value = 2000`);
    await evaluate(`document.querySelector("#prompt").focus()`);
    await send("Input.insertText", { text });
    await send("Input.dispatchKeyEvent", { type: "keyDown", key: "Enter", windowsVirtualKeyCode: 13, text: "\r" });
    if (isLast) {
      await until("document.querySelector('article:last-child.assistant')?.textContent.length > 8");
      await evaluate(`document.querySelector("#stop").click()`);
    }
    await until("!document.querySelector('#send').disabled");
  }
}

/** The widths that the page takes on a small and on a large screen. */
async function measure({ send, evaluate }) {
  const widths = [];
  for (const width of [360, 1400]) {
    const screen = { width, height: 800, deviceScaleFactor: 1, mobile: false };
    await send("Emulation.setDeviceMetricsOverride", screen);
    widths.push(await evaluate("document.documentElement.scrollWidth"));
  }
  return widths;
}

const home = mkdtempSync(join(tmpdir(), "chat-"));
const [browser, host] = await start(home);
try {
  const tab = await connect(host);
  await tab.send("Page.navigate", { url: address });
  await tab.until("document.querySelector('#send')?.disabled === false || document.querySelector('#status.failed')");
  const status = await tab.evaluate("document.querySelector('#status').textContent");
  if (texts.length > 0) await converse(tab);
  const widths = await measure(tab);
  console.log(JSON.stringify({ status, widths, problems: tab.problems, ...(await tab.evaluate(SHOWN)) }));
} finally {
  browser.kill();
  rmSync(home, { recursive: true, force: true, maxRetries: 5 });
}
