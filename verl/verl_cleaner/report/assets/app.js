/* The page: runs, tabs, curves, configuration, address, keys. */

const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const visible = (run) => !hidden.has(run);
const TABS = ["curves", "trajectories", "config"];
const inspector = new Inspector(data, visible);
let tab = "curves";

function store(name, value) {
  try { value === undefined ? null : localStorage.setItem(name, value); return localStorage.getItem(name); } catch { return null; }
}

/** Filters, kept over a reload, which a watched report does by itself. */
function remember() {
  try { sessionStorage.setItem("cleaner-filters", JSON.stringify(inspector.state())); } catch { /* a page from disk may have none */ }
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function drawRuns() {
  document.getElementById("runs").replaceChildren(...data.runs.map((run, i) => h("button", { type: "button", class: "run-chip", "aria-pressed": String(visible(i)), style: "--c: " + runColor(i), title: "show or hide this run",
    onclick: () => { hidden.has(i) ? hidden.delete(i) : hidden.add(i); drawRuns(); drawCurves(); inspector.filter(); } }, run.name)));
}

// ---- curves -----------------------------------------------------------------------------------------------------

function drawCurves() {
  const view = document.getElementById("view-curves");
  const sections = [...new Set(data.charts.map((chart) => chart.section))];
  view.replaceChildren(glance(), ...sections.flatMap((section) => {
    const cards = data.charts.filter((chart) => chart.section === section).map((chart) => chartCard(chart, data.runs, visible)).filter(Boolean);
    return cards.length ? [h("h2", {}, section), h("div", { class: "grid" }, cards)] : [];
  }), explorer());
}

function glance() {
  const heads = data.glance.heads;
  const cell = (value, unit) => {
    if (!value) return h("td", { class: "muted" }, "–");
    const [first, last] = value;
    return h("td", {}, h("b", {}, format(last, unit)), first === null || first === last ? null : h("span", { class: "muted" }, ` from ${format(first, unit)}`));
  };
  return h("div", { class: "scroll" }, h("table", { class: "glance" }, h("caption", { class: "unseen" }, "At a glance"), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "run"), heads.map(([title]) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, data.runs.map((run, i) => visible(i) ? h("tr", { style: "--c: " + runColor(i) }, h("th", { scope: "row", class: "run-name" }, run.name), data.glance.rows[i].map((value, j) => cell(value, heads[j][1]))) : null))));
}

let metrics = null;

/** Any logged metric, on demand. */
function explorer() {
  const place = h("div", { class: "grid" });
  const input = h("input", { type: "search", list: "metric-names", placeholder: "e.g. actor/pg_loss", "aria-label": "Metric", autocomplete: "off", onchange: draw, oninput: draw });
  async function draw() {
    metrics ??= await unpack(data.metrics);
    const series = (own(metrics, input.value) || []).map((points, run) => ({ run, label: "", dash: false, points })).filter((one) => one.points.length);
    const card = series.length ? chartCard({ title: input.value, note: "", unit: "", form: "lines", series }, data.runs, visible) : null;
    place.replaceChildren(...(card ? [card] : []));
  }
  const names = h("datalist", { id: "metric-names" });
  input.addEventListener("focus", async () => { metrics ??= await unpack(data.metrics); if (!names.children.length) names.append(...Object.keys(metrics).map((name) => h("option", { value: name }))); });
  return h("div", {}, h("h2", {}, "Any metric"), h("div", { class: "explorer" }, input, names), place);
}

// ---- configuration ----------------------------------------------------------------------------------------------

function drawConfig() {
  const runs = data.runs;
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))].sort();
  const differ = keys.filter((key) => new Set(runs.map((run) => run.config[key])).size > 1);
  const versions = [...new Set(runs.flatMap((run) => Object.keys(run.versions)))];
  const table = (title, names, read, mark) => h("div", { class: "scroll" }, h("table", { class: "config" }, h("caption", { class: "unseen" }, title),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "key"), runs.map((run, i) => h("th", { scope: "col", class: "run-name", style: "--c: " + runColor(i) }, run.name)))),
    h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, name), runs.map((run) => h("td", { class: mark ? "differs" : null }, read(run, name) ?? "–")))))));
  const view = document.getElementById("view-config");
  view.replaceChildren();
  if (runs.length > 1) view.append(h("h2", {}, "Differences"), differ.length ? table("Differences", differ, (run, key) => own(run.config, key), true) : h("p", { class: "hint" }, keys.length ? "None." : "No configuration was saved with these runs."));
  if (versions.length) view.append(h("h2", {}, "Versions"), table("Versions", versions, (run, name) => own(run.versions, name)));
  const all = h("div");
  const filter = h("input", { type: "search", placeholder: "Filter keys, e.g. rollback", "aria-label": "Filter keys", oninput: () => draw() });
  const draw = () => all.replaceChildren(table("All keys", keys.filter((key) => key.includes(filter.value)), (run, key) => own(run.config, key)));
  if (keys.length) { view.append(h("h2", {}, "All keys"), h("div", { class: "explorer" }, filter), all); draw(); } else view.append(h("p", { class: "hint" }, "No configuration was saved with the run."));
}

// ---- address, tabs, keys ----------------------------------------------------------------------------------------

function showTab(name) {
  tab = name;
  for (const other of TABS) {
    document.getElementById("view-" + other).hidden = other !== name;
    const button = document.getElementById("tab-" + other);
    button.setAttribute("aria-selected", String(other === name));
    button.tabIndex = other === name ? 0 : -1;
  }
  document.body.dataset.tab = name;
  if (name === "config" && !document.getElementById("view-config").children.length) drawConfig();
  if (name === "trajectories") inspector.drawRows();
}

async function route() {
  const [, key, value] = /^#(\w+)(?:=(.*))?$/.exec(location.hash) || [];
  if (key === "t" || key === "g") {
    showTab("trajectories");
    const i = inspector.find(value);
    if (i < 0) inspector.detail.replaceChildren(h("p", { class: "hint" }, "This report does not show the trajectory of the link; it may have been left out of the sample."));
    else await (key === "t" ? inspector.show(i) : inspector.compare(i, false));
  } else {
    document.body.classList.remove("reading", "comparing");
    showTab(TABS.includes(key) ? key : "curves");
  }
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  if (event.key === "Escape" && tab === "trajectories") {
    if (location.hash.startsWith("#g=")) inspector.select(inspector.open);
    else if (inspector.open >= 0) inspector.close();
    return;
  }
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const number = Number(event.key);
  if (number >= 1 && number <= 3) { location.hash = TABS[number - 1]; return; }
  const actions = {
    j: () => { showTab("trajectories"); inspector.step(1); },
    k: () => { showTab("trajectories"); inspector.step(-1); },
    t: () => inspector.setMode(inspector.mode === "tokens" ? "conversation" : "tokens"),
    g: () => { if (inspector.open >= 0) inspector.compare(inspector.open); },
    r: () => { const all = [...inspector.detail.querySelectorAll("details.repairs")], open = all.some((one) => !one.open); all.forEach((one) => { one.open = open; }); },
    "/": () => { location.hash = "trajectories"; showTab("trajectories"); inspector.form.elements.text.focus(); },
    "?": () => document.getElementById("help").showModal(),
  };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
}

function start() {
  setTheme(store("cleaner-theme"));
  document.getElementById("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
    store("cleaner-theme", dark ? "light" : "dark");
  });
  document.getElementById("help-open").addEventListener("click", () => document.getElementById("help").showModal());
  document.getElementById("total").textContent = data.index.run.length.toLocaleString("en");
  document.documentElement.classList.toggle("single", data.runs.length === 1);
  TABS.forEach((name) => document.getElementById("tab-" + name).addEventListener("click", () => { location.hash = name; }));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) { location.hash = TABS[(TABS.indexOf(tab) + move + 3) % 3]; document.getElementById("tab-" + TABS[(TABS.indexOf(tab) + move + 3) % 3]).focus(); }
  });
  addEventListener("hashchange", route);
  addEventListener("popstate", route);
  addEventListener("keydown", keys);
  if (performance.getEntriesByType("navigation")[0]?.type === "reload") {
    try { inspector.restore(JSON.parse(sessionStorage.getItem("cleaner-filters") || "{}")); } catch { /* as above */ }
  }
  if (data.refresh) {
    setInterval(() => { if (!document.hidden && document.activeElement.tagName !== "INPUT") location.reload(); }, 1000 * data.refresh);
  }
  drawRuns();
  drawCurves();
  inspector.filter();
  route();
}

start();
document.documentElement.dataset.ready = performance.now().toFixed(0);
