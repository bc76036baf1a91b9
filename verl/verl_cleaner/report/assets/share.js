/* The open trajectory as one small page of its own: this page without its curves, its list and the other trajectories. */

async function standalone(i) {
  const page = document.documentElement.cloneNode(true), x = data.index, run = x.run[i];
  const index = { ...x, prompts: [x.prompts[x.prompt[i]]] };
  for (const [name, column] of Object.entries(x)) if (!["prompts", "kind_names"].includes(name)) index[name] = [column[i]];
  Object.assign(index, { run: [0], prompt: [0] });
  const only = { ...data, alone: true, index, refresh: 0, version: "", metrics: 1, evaluations: [],
    runs: [{ ...data.runs[run], config: {}, versions: {}, about: {}, total: 1 }],
    views: [{ groups: [{ name: data.runs[run].name, runs: [0] }], charts: [], summary: { sections: [] }, differences: null, families: [[]] }] };
  page.querySelectorAll("script[type='text/plain'], .warnings").forEach((node) => node.remove());
  for (const id of ["runs", "filters", "rows", "detail", "view-curves", "view-config", "found"]) page.querySelector("#" + id).replaceChildren();
  page.removeAttribute("data-ready");
  page.querySelector("body").removeAttribute("class");
  page.querySelector("title").textContent = `${data.runs[run].name} · step ${x.step[i]}`;
  const held = page.querySelector("#data");
  held.textContent = JSON.stringify(only).replace(/</g, "\\u003c");
  const packed = await Promise.all([[await inspector.body(i)], {}].map(pack));
  held.after(...packed.map((text, number) => h("script", { type: "text/plain", id: "chunk-" + number }, text)));
  return "<!doctype html>\n" + page.outerHTML;
}

/** The reverse of `unpack`: compressed JSON in base64. */
async function pack(value) {
  const stream = new Blob([JSON.stringify(value)]).stream().pipeThrough(new CompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

async function save(i) {
  const x = data.index, name = `${data.runs[x.run[i]].name}-step${x.step[i]}-${x.uid[i].slice(0, 8)}-${x.rollout[i]}.html`.replace(/[^\w.-]+/g, "_");
  const address = URL.createObjectURL(new Blob([await standalone(i)], { type: "text/html" }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
