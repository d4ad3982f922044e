// Says where `@huggingface/transformers` comes from: the CDN, or with `?packages=node_modules` a
// folder of npm packages on this server. An import map has to be there before the first module.

const folder = new URLSearchParams(location.search).get("packages");
/** The folder of npm packages, if one is named. */
const packages = folder && new URL(`${folder}/`, location.href);

// A link to this page must not make it run the code of another server.
if (!packages || packages.origin === location.origin) {
  const map = document.createElement("script");
  map.type = "importmap";
  map.textContent = JSON.stringify({
    imports: {
      "@huggingface/transformers": packages
        ? `${packages}@huggingface/transformers/dist/transformers.min.js`
        : "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.2",
    },
  });
  document.currentScript.after(map);
} else {
  addEventListener("DOMContentLoaded", sayMissing);
}

/** Without the module there is no page that could say so. */
function sayMissing() {
  const status = document.querySelector("#status");
  status.className = "failed";
  status.textContent = `transformers.js did not load from ${packages ?? "the CDN"}: ?packages=FOLDER names a node_modules on this server`;
  document.querySelector("#progress").hidden = true;
}
