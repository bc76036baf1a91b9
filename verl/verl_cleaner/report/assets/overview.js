/* The tables above the curves: facts of the runs, policy and repairs apart, differences, families, evaluations. */

/** A table in a box that scrolls; heads: texts or nodes. */
function sheet(title, heads, rows, kind = "glance") {
  return h("div", { class: "scroll" }, h("table", { class: kind }, h("caption", { class: "unseen" }, title),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, rows)));
}

function groupName(group, i) {
  return h("span", { class: "run-name", style: "--c: " + runColor(i) }, group.name);
}

/** Title, and what each run was started with. */
function facts(data) {
  const runs = data.runs.filter((run) => Object.keys(run.about).length);
  const list = (run) => h("dl", { class: "about" }, Object.entries(run.about).map(([label, text]) => [h("dt", {}, label), h("dd", {}, ["command", "commit"].includes(label) ? h("code", {}, text) : text)]).flat());
  const short = (run) => ["started", "model", "seed", "steps"].map((label) => own(run.about, label)).filter(Boolean).join(" · ");
  const labels = ["started", "model", "seed", "steps", "commit", "hardware"];
  const same = (label) => new Set(runs.map((run) => own(run.about, label))).size === 1 && own(runs[0].about, label);
  const common = runs.length > 1 ? labels.filter(same).map((label) => `${label} ${own(runs[0].about, label)}`) : [];
  return h("header", { class: "facts-head" }, h("h1", {}, data.title), data.runs.length === 1
    ? runs.map(list)
    : runs.length ? h("div", {}, common.length ? h("p", { class: "muted common" }, `All runs: ${common.join(" · ")}`) : null, h("details", { class: "data" }, h("summary", {}, "About the runs"), runs.map((run) => h("section", {}, h("h3", {}, run.name), h("p", { class: "muted" }, short(run)), list(run))))) : null);
}

/** First and last values of the policy alone, of training, and after repairs. */
function summaryTable(view, visible) {
  const shown = view.groups.map((group, i) => [group, i]).filter(([, i]) => visible(i));
  const cell = (ends, unit, better) => {
    if (!ends) return h("td", { class: "muted" }, "–");
    const [first, last] = ends, change = last - first;
    const mark = change && better * change > 0 ? "good" : change ? "bad" : "muted";
    return h("td", {}, h("b", {}, format(last, unit)), change ? h("span", { class: "muted" }, ` from ${format(first, unit)} `) : null,
      change ? h("span", { class: "mark " + mark, title: mark === "good" ? "better" : "worse" }, change > 0 ? "↑" : "↓", h("span", { class: "unseen" }, mark === "good" ? " better" : " worse")) : null);
  };
  const rows = view.summary.sections.flatMap(([title, lines]) => [
    h("tr", { class: "part" }, h("th", { scope: "rowgroup", colspan: shown.length + 1 }, title)),
    ...lines.map(([name, unit, better, cells]) => h("tr", {}, h("th", { scope: "row" }, name), shown.map(([, i]) => cell(cells[i], unit, better))))]);
  return rows.length ? [h("h2", {}, "The policy or the repairs?"), sheet("The policy or the repairs?", ["", ...shown.map(([group, i]) => groupName(group, i))], rows),
    h("p", { class: "hint" }, "Each value is the mean over the last tenth of what was logged; after \"from\", the mean over the first tenth. Held-out values and first attempts show the policy alone, values after repairs do not. An arrow shows the direction; the change may be noise.")] : [];
}

let base = 0;

/** Every group against the one that is picked. */
function differenceTable(view, visible, redraw) {
  const found = view.differences;
  const shown = view.groups.map((group, i) => [group, i]).filter(([, i]) => visible(i));
  if (!found || shown.length < 2) return [];
  if (base >= view.groups.length || !visible(base)) base = shown[0][1];
  const others = shown.filter(([, i]) => i !== base);
  const pick = h("select", { "aria-label": "Compare with", onchange: () => { base = Number(pick.value); redraw(); } }, shown.map(([group, i]) => h("option", { value: i, selected: i === base }, group.name)));
  const points = (value, unit) => (value > 0 ? "+" : value < 0 ? "−" : "±") + (unit === "%" ? (100 * Math.abs(value)).toFixed(1) : format(Math.abs(value), unit));
  const cell = (difference, unit, better) => {
    if (!difference) return h("td", { class: "muted" }, "–");
    const [value, low, high] = difference, sure = low !== null && (low > 0 || high < 0);
    return h("td", {}, h("b", { class: sure ? "mark " + (better * value > 0 ? "good" : "bad") : null }, points(value, unit)),
      h("span", { class: "muted" }, low === null ? " one seed" : ` [${points(low, unit)}, ${points(high, unit)}]`));
  };
  const rows = found.rows.map(([section, title, unit, better, cells, against]) => h("tr", {}, h("th", { scope: "row" }, title, h("span", { class: "muted" }, " " + section.toLowerCase())),
    h("td", {}, cells[base] ? format(cells[base][0], unit) : "–"), others.map(([, i]) => cell(against[base][i], unit, better))));
  return [h("h2", {}, "Differences"), h("p", { class: "explorer" }, "Compared with ", pick),
    sheet("Differences", ["", groupName(view.groups[base], base), ...others.map(([group, i]) => groupName(group, i))], rows),
    h("p", { class: "hint" }, `Over the last tenth of the steps up to ${found.step}, which all runs reached. Shares in percentage points. Intervals are Welch's over the seeds at 95 %. A difference is coloured if its interval excludes zero.`)];
}

function interval(estimate, signed = false) {
  if (!estimate) return h("td", { class: "muted" }, "–");
  const text = (value) => (signed && value > 0 ? "+" : "") + (100 * value).toFixed(1).replace("-", "−");
  const sure = signed && (estimate.low > 0 || estimate.high < 0);
  return h("td", {}, h("b", { class: sure ? "mark " + (estimate.value > 0 ? "good" : "bad") : null }, text(estimate.value)), h("span", { class: "muted" }, ` [${text(estimate.low)}, ${text(estimate.high)}]`));
}

/** Held-out accuracy by task family. */
function familyTables(view, visible) {
  const shown = view.groups.map((group, i) => [group, i]).filter(([, i]) => visible(i) && view.families[i].length);
  if (!shown.length) return [];
  const helped = shown.some(([, i]) => view.families[i].some((one) => one.helped));
  const rows = shown.flatMap(([group, i]) => [
    ...(view.groups.length > 1 ? [h("tr", { class: "part" }, h("th", { scope: "rowgroup", colspan: helped ? 7 : 5 }, groupName(group, i)))] : []),
    ...view.families[i].map((one) => h("tr", {}, h("th", { scope: "row" }, one.family), h("td", {}, one.tasks.toLocaleString("en")), interval(one.first), interval(one.last), interval(one.steps && one.steps[0] === one.steps[1] ? null : one.change, true),
      helped ? [interval(one.helped), interval(one.gain, true)] : null))]);
  const steps = new Set(shown.map(([, i]) => String(view.families[i][0].steps))), [first, last] = view.families[shown[0][1]][0].steps || [];
  const known = steps.size === 1 && first !== undefined;
  return [h("h2", {}, "Held-out accuracy by task family"), sheet("Held-out accuracy by task family", ["", "tasks", known ? `step ${first}` : "first validation", known ? `step ${last}` : "last validation", "change on the same tasks", ...(helped ? ["last, with rollback", "what repairs add"] : [])], rows),
    h("p", { class: "hint" }, "Percent, with 95 % intervals by bootstrap over the tasks. A change is coloured if its interval excludes zero.")];
}

/** The bare policy against rollback at test time. */
function evaluationTable(rows) {
  if (!rows.length) return [];
  const arm = (row, name) => row.arms[name];
  const left = (row, name) => h("td", {}, arm(row, name) ? format(arm(row, name).failures_left) : "–");
  return [h("h2", {}, "Bare policy and rollback at test time"),
    sheet("Bare policy and rollback at test time", ["", "problems × samples", "bare", "with rollback", "difference", "failures left, bare", "with rollback"], rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.suite, h("span", { class: "muted" }, " " + row.model)),
      h("td", {}, `${row.problems} × ${row.samples}`), interval(arm(row, "plain")?.mean), interval(arm(row, "rollback")?.mean), interval(row.gain, true), left(row, "plain"), left(row, "rollback")))),
    h("p", { class: "hint" }, "Percent of samples that are right, with 95 % intervals over the problems. Retries cost tokens; the evaluation's own report compares at equal tokens.")];
}
