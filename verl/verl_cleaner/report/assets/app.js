/* The page: runs, tabs, curves, configuration, address, keys. */

const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const visible = (run) => !hidden.has(run);
let view = data.views.at(-1);
/** A group of runs is shown where one of its runs is. */
const shownGroup = (group) => view.groups[group].runs.some(visible);
const TABS = ["curves", "trajectories", "config"];
const inspector = new Inspector(data, visible);
let tab = "curves";

function store(name, value) {
  try { value === undefined ? null : localStorage.setItem(name, value); return localStorage.getItem(name); } catch { return null; }
}

/** What the reader has chosen, kept over a reload, which the report of a running training does by itself. */
function remember() {
  const chosen = { filters: inspector.state(), hidden: data.runs.filter((_, i) => hidden.has(i)).map((run) => run.name), seeds: view !== data.views.at(-1), mode: inspector.mode };
  try { sessionStorage.setItem("cleaner-chosen", JSON.stringify(chosen)); } catch { /* a page from disk may have none */ }
}

function recall() {
  let chosen = {};
  try { chosen = JSON.parse(sessionStorage.getItem("cleaner-chosen") || "{}"); } catch { /* as above */ }
  inspector.restore(chosen.filters || {});
  data.runs.forEach((run, i) => { if ((chosen.hidden || []).includes(run.name)) hidden.add(i); });
  if (chosen.seeds) view = data.views[0];
  if (chosen.mode) inspector.mode = chosen.mode;
}

/** Load the page again when the server has another version of it, as soon as that disturbs nobody. */
function follow(version) {
  let stale = false;
  const reload = () => { if (stale && !document.hidden && document.activeElement.tagName !== "INPUT") { remember(); location.reload(); } };
  new EventSource("events").addEventListener("message", (event) => { stale = event.data !== "" && event.data !== version; reload(); });
  document.addEventListener("visibilitychange", reload);
  document.addEventListener("focusout", () => setTimeout(reload, 0));
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function drawRuns() {
  const chips = view.groups.map((group, i) => h("button", { type: "button", class: "run-chip", "aria-pressed": String(shownGroup(i)), style: "--c: " + runColor(i), title: "show or hide",
    onclick: () => { const off = shownGroup(i); group.runs.forEach((run) => off ? hidden.add(run) : hidden.delete(run)); drawRuns(); drawCurves(); inspector.filter(); } }, group.name));
  const together = view !== data.views[0];
  if (data.views.length > 1) chips.push(h("button", { type: "button", class: "quiet", id: "seeds", "aria-pressed": String(together), title: "mean and range of runs that differ in their seed only",
    onclick: () => { view = data.views[together ? 0 : 1]; drawRuns(); drawCurves(); } }, together ? "each seed" : "group seeds"));
  document.getElementById("runs").replaceChildren(...chips);
}

// ---- curves -----------------------------------------------------------------------------------------------------

const GAP = 14, CARD = 400;
let columns = 0;

function drawCurves() {
  const place = document.getElementById("view-curves");
  columns = Math.max(1, Math.floor((document.getElementById("main").clientWidth + GAP) / (CARD + GAP)));
  const sections = [...new Set(view.charts.map((chart) => chart.section))];
  place.replaceChildren(facts(data), ...summaryTable(view, shownGroup), ...differenceTable(view, shownGroup, drawCurves), ...familyTables(view, shownGroup), ...evaluationTable(data.evaluations),
    ...sections.flatMap((section) => {
      const rows = laidOut(view.charts.filter((chart) => chart.section === section && chart.series.some((one) => shownGroup(one.run))), columns);
      return rows.length ? [h("h2", {}, section), ...rows] : [];
    }), explorer());
}

/** Rows that are all filled: cards share the width of their row, so that none is left alone beside a blank. */
function laidOut(charts, columns) {
  const size = (chart) => chart.form === "stack" && chart.series.filter((one) => shownGroup(one.run)).length > 1 ? Math.min(2, columns) : 1;
  const total = charts.reduce((sum, chart) => sum + size(chart), 0);
  const each = Math.ceil(total / Math.ceil(total / columns));
  const rows = [];
  for (const chart of [...charts].sort((a, b) => size(a) - size(b))) {
    const last = rows.at(-1);
    if (last && last.size + size(chart) <= each) { last.charts.push(chart); last.size += size(chart); } else rows.push({ charts: [chart], size: size(chart) });
  }
  return rows.map((row) => h("div", { class: "cards" }, row.charts.map((chart) => {
    const card = chartCard(chart, view.groups, shownGroup, (columns * size(chart)) / row.size);
    card.style.flexGrow = size(chart);
    return card;
  })));
}

let metrics = null;

/** Any logged metric, on demand. */
function explorer() {
  const place = h("div", { class: "cards" });
  const input = h("input", { type: "search", list: "metric-names", placeholder: "e.g. actor/pg_loss", "aria-label": "Metric", autocomplete: "off", onchange: draw, oninput: draw });
  async function draw() {
    metrics ??= await unpack(data.metrics);
    const series = (own(metrics, input.value) || []).map((points, run) => ({ run, label: "", dash: "", points })).filter((one) => one.points.length);
    const card = series.length ? chartCard({ title: input.value, note: "", unit: "", form: "lines", floor: /kl|clipfrac/i.test(input.value) ? 1e-4 : 0, series }, data.runs, visible, columns) : null;
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
    showTab(TABS.includes(key) ? key : view.charts.length || !data.index.run.length ? "curves" : "trajectories");
    if (data.index.run.length === 1 && !key) inspector.show(0);
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
  document.documentElement.classList.toggle("alone", data.alone && data.index.run.length === 1);
  TABS.forEach((name) => document.getElementById("tab-" + name).addEventListener("click", () => { location.hash = name; }));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    // The address changes the tab at once.
    const next = TABS[(TABS.indexOf(tab) + move + 3) % 3];
    location.hash = next;
    document.getElementById("tab-" + next).focus();
  });
  addEventListener("hashchange", route);
  addEventListener("popstate", route);
  addEventListener("keydown", keys);
  if (performance.getEntriesByType("navigation")[0]?.type === "reload") recall();
  addEventListener("resize", () => { if (Math.max(1, Math.floor((document.getElementById("main").clientWidth + GAP) / (CARD + GAP))) !== columns) drawCurves(); });
  if (data.refresh) {
    setInterval(() => { if (!document.hidden && document.activeElement.tagName !== "INPUT") { remember(); location.reload(); } }, 1000 * data.refresh);
  }
  if (data.version) follow(data.version);
  drawRuns();
  drawCurves();
  inspector.filter();
  route();
}

start();
document.documentElement.dataset.ready = performance.now().toFixed(0);
