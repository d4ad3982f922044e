// Says where `@huggingface/transformers` comes from: the CDN, or with `?packages=node_modules` a
// folder of npm packages on this server. An import map has to be there before the first module.

const packages = (() => {
  const folder = new URLSearchParams(location.search).get("packages");
  const url = folder && new URL(`${folder}/`, location.href);
  // A link to this page must not make it run the code of other servers.
  return url?.origin === location.origin ? url.href : undefined;
})();

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
