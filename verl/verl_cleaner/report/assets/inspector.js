/* The list of trajectories, its filters, and the trajectory that is open. */

const ROW = 30, HEAD = 52;
/* Heights of a rollout and of the prompt above its rollouts. */

class Inspector {
  constructor(data, visible) {
    this.data = data;
    this.index = data.index;
    this.visible = visible;
    this.found = [];
    this.items = [];
    this.places = new Map();
    this.open = -1;
    this.mode = "conversation";
    this.blocks = new Map();
    this.searched = null;
    this.form = document.getElementById("filters");
    this.list = document.getElementById("list");
    this.rows = document.getElementById("rows");
    this.detail = document.getElementById("detail");
    this.makeFilters();
    this.list.addEventListener("scroll", () => this.drawRows());
    this.list.addEventListener("keydown", (event) => {
      const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (move) { event.preventDefault(); this.step(move); }
    });
    new ResizeObserver(() => this.drawRows()).observe(this.list);
  }

  /** The body of trajectory i, unpacked with its block. */
  async body(i) {
    const block = Math.floor(i / this.data.chunk);
    if (!this.blocks.has(block)) this.blocks.set(block, unpack(block));
    return (await this.blocks.get(block))[i % this.data.chunk];
  }

  name(i) {
    const x = this.index;
    return [this.data.runs[x.run[i]].name, x.split[i], x.step[i], x.uid[i], x.rollout[i]].map(encodeURIComponent).join("~");
  }

  find(name) {
    for (let i = 0; i < this.index.run.length; i++) if (this.name(i) === name) return i;
    return -1;
  }

  // ---- filters ------------------------------------------------------------------------------------------------

  makeFilters() {
    const x = this.index, unique = (values) => [...new Set(values)];
    const steps = unique(x.step).sort((a, b) => a - b);
    const change = () => this.filter();
    const select = (name, label, choices) => h("label", {}, h("span", {}, label), h("select", { name, onchange: change }, choices.map(([value, text]) => h("option", { value }, text))));
    const kinds = [...x.kind_names].sort().map((kind) => ["=" + kind, kind]);
    let waiting;
    const typed = () => { clearTimeout(waiting); waiting = setTimeout(change, 200); };
    this.form.append(
      h("label", { class: "search" }, h("span", { class: "unseen" }, "Text"), h("input", { type: "search", name: "text", placeholder: "Search prompts, code, responses   /", oninput: typed })),
      ...(this.data.runs.length > 1 ? [select("run", "run", [["", "all"], ...this.data.runs.map((run, i) => [String(i), run.name])])] : []),
      ...(unique(x.split).length > 1 ? [select("split", "split", [["", "all"], ["train", "train"], ["validation", "validation"]])] : []),
      select("step", "step", [["", "all"], ...steps.map((step) => [String(step), String(step)])]),
      select("outcome", "reward", [["", "all"], ["right", "right"], ["wrong", "wrong"]]),
      select("kind", "failure", [["", "all"], ["any", "any failure"], ["none", "no failure"], ...kinds]),
      select("repaired", "repaired", [["", "all"], ["1", "yes"], ["0", "no"]]));
    this.form.addEventListener("submit", (event) => event.preventDefault());
  }

  state() {
    return Object.fromEntries([...new FormData(this.form)].filter(([, value]) => value));
  }

  restore(state) {
    for (const [name, value] of Object.entries(state)) if (this.form.elements[name]) this.form.elements[name].value = value;
  }

  async filter() {
    const f = this.state(), x = this.index;
    const query = (f.text || "").toLowerCase();
    const texts = query ? await this.texts() : null;
    if (query !== (this.state().text || "").toLowerCase()) return;
    const keep = (i) => this.visible(x.run[i]) && (!f.run || x.run[i] === Number(f.run)) && (!f.split || x.split[i] === f.split)
      && (!f.step || x.step[i] === Number(f.step)) && (!f.outcome || (right(x, i) ? "right" : "wrong") === f.outcome)
      && (!f.kind || (f.kind === "any" ? x.kinds[i].length > 0 : f.kind === "none" ? !x.kinds[i].length : x.kinds[i].includes(x.kind_names.indexOf(f.kind.slice(1)))))
      && (!f.repaired || x.repaired[i] === Number(f.repaired)) && (!texts || texts[i].includes(query));
    this.found = x.run.map((_, i) => i).filter(keep);
    const count = (n) => n.toLocaleString("en"), all = this.data.runs.reduce((sum, run) => sum + run.total, 0);
    document.getElementById("found").textContent = `${this.found.length === x.run.length ? "" : count(this.found.length) + " of "}${count(x.run.length)} trajectories`
      + (all > x.run.length ? `, a sample of ${count(all)}` : "");
    this.layOut();
    this.list.scrollTop = 0;
    this.drawRows();
    remember();
  }

  /** Everything that can be searched, made once. */
  async texts() {
    this.searched ??= Promise.all(this.index.run.map(async (_, i) => {
      const body = await this.body(i);
      const retries = body.retries.flatMap((retry) => [retry.error, retry.failed, ...retry.diff.map(([, parts]) => parts.map(([, text]) => text).join(""))]);
      return [...body.prompt, ...body.blocks].flatMap((block) => [block[1], block[4]]).concat(retries, this.index.uid[i]).join("\n").toLowerCase();
    }));
    return this.searched;
  }

  // ---- list ---------------------------------------------------------------------------------------------------

  /** Rollouts of one prompt stand together, below the prompt, which is shown once. */
  layOut() {
    const x = this.index, same = (i, j) => j !== undefined && ["run", "split", "step", "prompt"].every((name) => x[name][i] === x[name][j]);
    this.items = [];
    this.places = new Map();
    let top = 0;
    this.found.forEach((i, place) => {
      if (!same(i, this.found[place - 1])) {
        let end = place;
        while (same(i, this.found[end])) end++;
        this.items.push({ top, head: this.found.slice(place, end) });
        top += HEAD;
      }
      this.places.set(i, top);
      this.items.push({ top, i, place });
      top += ROW;
    });
    this.rows.style.height = top + "px";
  }

  drawRows() {
    const first = this.list.scrollTop - 3 * ROW, last = this.list.scrollTop + this.list.clientHeight + 3 * ROW;
    let from = 0, to = this.items.length;
    while (from < to) { const middle = (from + to) >> 1; if (this.items[middle].top < first) from = middle + 1; else to = middle; }
    const shown = [];
    for (let at = Math.max(0, from - 1); at < this.items.length && this.items[at].top < last; at++) shown.push(this.items[at]);
    this.rows.replaceChildren(...shown.map((item) => item.head ? this.promptRow(item) : this.row(item)));
  }

  promptRow({ top, head }) {
    const x = this.index, i = head[0], count = (keep) => head.filter(keep).length;
    const repaired = count((j) => x.repaired[j]);
    return h("div", { class: "prompt-row", role: "presentation", style: `top: ${top}px; --c: ${runColor(x.run[i])}` },
      h("div", { class: "question", dir: "auto" }, x.prompts[x.prompt[i]]),
      h("div", { class: "row-foot" }, this.data.runs.length > 1 ? h("span", { class: "run-name" }, this.data.runs[x.run[i]].name) : null,
        h("span", {}, `${x.split[i] === "validation" ? "validation " : ""}step ${x.step[i]} · ${count((j) => right(x, j))} of ${head.length} right${repaired ? ` · ${repaired} repaired` : ""}`)));
  }

  row({ top, i, place }) {
    const x = this.index, ok = right(x, i), kinds = x.kinds[i].map((kind) => x.kind_names[kind]);
    return h("div", { class: "row" + (i === this.open ? " open" : ""), role: "option", id: "row-" + i, "aria-selected": i === this.open ? "true" : "false", "aria-posinset": place + 1, "aria-setsize": this.found.length,
      "aria-label": [ok ? "right" : "wrong", `rollout ${x.rollout[i]}`, x.repaired[i] && "repaired", ...kinds, `step ${x.step[i]}`, x.prompts[x.prompt[i]]].filter(Boolean).join(", "),
      style: `top: ${top}px`, onclick: () => this.select(i) },
      h("span", { class: "mark " + (ok ? "good" : "bad"), title: `${ok ? "right" : "wrong"}, reward ${format(x.score[i])}` }, ok ? "✓" : "✗"), h("span", {}, `rollout ${x.rollout[i]}`),
      x.repaired[i] ? h("span", { class: "badge good" }, "repaired") : null, kinds.slice(0, 2).map((kind) => h("span", { class: "badge bad" }, kind)));
  }

  step(move) {
    const at = this.found.indexOf(this.open);
    const next = this.found[at < 0 ? 0 : Math.max(0, Math.min(this.found.length - 1, at + move))];
    if (next !== undefined) this.select(next);
  }

  select(i, replace = false) {
    const hash = "#t=" + this.name(i);
    if (replace) history.replaceState(null, "", hash);
    else if (location.hash !== hash) history.pushState(null, "", hash);
    this.show(i);
  }

  // ---- one trajectory -----------------------------------------------------------------------------------------

  async show(i) {
    this.open = i;
    const top = this.places.get(i);
    if (top !== undefined) {
      if (top < this.list.scrollTop) this.list.scrollTop = top;
      if (top + ROW > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + ROW - this.list.clientHeight;
    }
    this.drawRows();
    this.list.setAttribute("aria-activedescendant", "row-" + i);
    const body = await this.body(i);
    if (this.open !== i) return;
    document.body.classList.add("reading");
    document.body.classList.remove("comparing");
    this.detail.replaceChildren(this.head(i, body), this.mode === "tokens" ? tokenView(body) : conversation(body));
    this.detail.scrollTop = 0;
  }

  head(i, body) {
    const x = this.index, group = this.group(i);
    const mode = (name, label) => h("button", { type: "button", "aria-pressed": String(this.mode === name), onclick: () => this.setMode(name) }, label);
    const copied = h("button", { type: "button", class: "quiet link", onclick: async () => {
      try { await navigator.clipboard.writeText(location.href); copied.textContent = "copied"; } catch { copied.textContent = "it is in the address bar"; }
    } }, "link");
    return h("header", { class: "detail-head" },
      h("div", { class: "where" }, h("button", { type: "button", class: "quiet back", onclick: () => this.close() }, "← list"),
        h("span", { class: "run-name", style: "--c: " + runColor(x.run[i]) }, this.data.runs[x.run[i]].name), h("span", {}, `${x.split[i]} · step ${x.step[i]} · prompt ${x.uid[i].slice(0, 8)} · rollout ${x.rollout[i]}`)),
      h("div", { class: "where" }, h("span", { class: "badge " + (right(x, i) ? "good" : "bad") }, `reward ${format(x.score[i])}`), body.truth ? h("span", { class: "muted truth" }, "truth ", h("code", {}, body.truth.slice(0, 80))) : null,
        body.tokens ? h("span", { class: "muted" }, `${body.tokens.texts.length + body.tokens.more} tokens`) : null, h("span", { class: "spacer" }),
        h("div", { class: "switch", role: "group", "aria-label": "View" }, mode("conversation", "conversation"), mode("tokens", "tokens")),
        group.length > 1 ? h("button", { type: "button", class: "quiet", onclick: () => this.compare(i) }, `side by side (${group.length})`) : null, copied,
        this.data.alone ? null : h("button", { type: "button", class: "quiet", title: "this trajectory as a small page of its own", onclick: () => save(i) }, "save")));
  }

  setMode(name) {
    this.mode = name;
    if (this.open >= 0) this.show(this.open);
  }

  /** Rollouts of the same prompt at the same step, of all runs that are shown. */
  group(i) {
    const x = this.index;
    return x.run.map((_, j) => j).filter((j) => x.prompt[j] === x.prompt[i] && x.step[j] === x.step[i] && x.split[j] === x.split[i] && this.visible(x.run[j]));
  }

  async compare(i, push = true) {
    const hash = "#g=" + this.name(i);
    if (push && location.hash !== hash) history.pushState(null, "", hash);
    const x = this.index, group = this.group(i);
    const bodies = await Promise.all(group.map((j) => this.body(j)));
    this.open = i;
    document.body.classList.add("reading", "comparing");
    const many = new Set(group.map((j) => x.run[j])).size > 1;
    this.detail.replaceChildren(
      h("header", { class: "detail-head" }, h("div", { class: "where" }, h("button", { type: "button", class: "quiet", onclick: () => this.select(i) }, "← one trajectory"),
        h("span", {}, `${group.length} rollouts of one prompt · ${x.split[i]} step ${x.step[i]}`)), prose(x.prompts[x.prompt[i]])),
      h("div", { class: "columns" }, group.map((j, k) => h("section", { class: "column" + (j === i ? " open" : ""), style: "--c: " + runColor(x.run[j]) },
        h("h3", {}, h("button", { type: "button", class: "quiet", onclick: () => this.select(j) }, `rollout ${x.rollout[j]}`), many ? h("span", { class: "run-name" }, this.data.runs[x.run[j]].name) : null,
          h("span", { class: "badge " + (right(x, j) ? "good" : "bad") }, `reward ${format(x.score[j])}`)),
        conversation({ ...bodies[k], prompt: [] })))));
    this.detail.scrollTop = 0;
    const columns = this.detail.querySelector(".columns"), open = columns.querySelector(".open");
    columns.scrollLeft = open.offsetLeft - columns.offsetLeft;
  }

  close() {
    document.body.classList.remove("reading", "comparing");
    this.open = -1;
    history.pushState(null, "", "#trajectories");
    this.detail.replaceChildren(h("p", { class: "hint" }, "Pick a trajectory on the left, or press ", h("kbd", {}, "j"), "."));
    this.drawRows();
    this.list.focus();
  }
}

function right(x, i) {
  return x.acc[i] !== null ? x.acc[i] >= 0.5 : (x.score[i] || 0) > 0;
}

/** JSON that was compressed and written as base64. */
async function unpack(number) {
  const text = atob(document.getElementById("chunk-" + number).textContent);
  const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
