"use strict";
/* Elements and vector charts. Everything shown goes through `put`, which makes text, never markup. */

const SVG = "http://www.w3.org/2000/svg";
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\p{Cs}]/u;

/** Append text; what cannot be seen or turns the reading direction is shown as its code. */
function put(node, text) {
  let rest = String(text);
  for (let at = rest.search(CONTROL); at >= 0; at = rest.search(CONTROL)) {
    if (at) node.append(rest.slice(0, at));
    const code = rest.charCodeAt(at);
    const mark = document.createElement("span");
    mark.className = "control";
    mark.textContent = code < 32 ? String.fromCharCode(0x2400 + code) : "U+" + code.toString(16).toUpperCase().padStart(4, "0");
    node.append(mark);
    rest = rest.slice(at + 1);
  }
  if (rest) node.append(rest);
  return node;
}

function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child instanceof Node) node.append(child);
    else if (child !== null && child !== undefined && child !== false) put(node, child);
  }
  return node;
}

/** A property of the data, not one that every object has. */
function own(object, name) {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

function format(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return (100 * value).toFixed(1) + " %";
  const size = Math.abs(value);
  let text;
  if (size >= 1e6) text = (value / 1e6).toPrecision(3) + "M";
  else if (size >= 1e4) text = (value / 1e3).toPrecision(3) + "k";
  else if (Number.isInteger(value)) text = String(value);
  else text = size >= 0.001 ? String(Number(value.toPrecision(size < 0.1 ? 2 : 3))) : value.toExponential(1);
  return unit === "s" ? text + " s" : text;
}

function ticks(low, high, count) {
  const span = high - low || 1;
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

let W = 420;
const H = 220, LEFT = 46, RIGHT = 12, TOP = 12, BOTTOM = 26;

const COLORS = 8, DASHES = [null, "9 3", "9 3 2 3", "14 4"];

/** Of run i; after the last colour the first one comes again, with another dash. */
function runColor(i) {
  return `var(--run-${i % COLORS})`;
}

function runDash(i) {
  return DASHES[Math.floor(i / COLORS) % DASHES.length];
}

/** Scales, grid and axis labels; returns {svg, x, y}. An axis that does not begin at zero says so. */
function frame(title, steps, low, high, unit) {
  const [first, last] = steps, width = W;
  const x = (step) => LEFT + (last === first ? 0.5 : (step - first) / (last - first)) * (width - LEFT - RIGHT);
  const y = (value) => H - BOTTOM - ((value - low) / (high - low || 1)) * (H - TOP - BOTTOM);
  const cut = low > 0 || high < 0;
  const svg = s("svg", { viewBox: `0 0 ${width} ${H}`, role: "img", "aria-label": title + (cut ? ` The axis begins at ${format(low, unit)}, not at zero.` : ""), tabindex: 0 });
  for (const value of ticks(low, high, 4)) {
    svg.append(s("line", { class: value === 0 ? "axis" : "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(s("text", { class: "tick", x: LEFT - 6, y: y(value) + 3.5, "text-anchor": "end" }, unit === "%" ? Number((100 * value).toPrecision(6)) + "%" : format(value)));
  }
  const whole = ticks(first, last, Math.round(width / 70)).filter(Number.isInteger);
  for (const step of first === last ? [first] : whole) {
    svg.append(s("text", { class: "tick", x: x(step), y: H - 8, "text-anchor": "middle" }, step));
  }
  if (cut) {
    svg.append(s("path", { class: "cut", d: `M${LEFT - 5},${H - BOTTOM}l3,-4l4,8l3,-4` }),
      s("text", { class: "tick cut-note", x: LEFT + 10, y: H - BOTTOM + 4 - 6 }, `axis from ${format(low, unit)}`));
  }
  return { svg, x, y };
}

/** [low, high] of an axis. Values below the floor are errors of rounding: they are drawn, but not made large. */
function extent(values, unit, floor) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low >= 0 && (unit === "%" || low < high / 2)) low = 0;
  if (unit === "%" && high > 0.7) high = 1;
  const size = Math.max(Math.abs(low), Math.abs(high)), least = Math.max(floor || 0, 1e-6 * size) || 1;
  if (high - low < least) {
    if (low >= 0 && low < least) [low, high] = [0, least];
    else if (size < least) [low, high] = [-least, least];
    else [low, high] = low > 0 ? [0, high * 1.5] : [low - size / 2, high + size / 2];
  } else if (unit !== "%" || high < 1) high += (high - low) * 0.06;
  return [low, high];
}

function lineChart(chart, runs, visible) {
  const series = chart.series.filter((one) => visible(one.run));
  if (!series.length) return null;
  const points = series.flatMap((one) => one.points);
  const values = points.flatMap((point) => point.slice(1)).filter((value) => value !== null);
  const [low, high] = extent(values, chart.unit, chart.floor);
  const steps = points.map((point) => point[0]);
  const ends = [Math.min(...steps), Math.max(...steps)];
  const last = series.map((one) => `${runs[one.run].name} ${one.label} ${format(one.points.at(-1)[1], chart.unit)}`).join(", ");
  const { svg, x, y } = frame(`${chart.title}. At the end: ${last}.`, ends, low, high, chart.unit);
  for (const one of series) {
    const color = runColor(one.run);
    const band = one.points.filter((p) => p.length > 2);
    if (band.length) {
      const up = band.map((p) => `${x(p[0])},${y(p[3])}`), down = band.map((p) => `${x(p[0])},${y(p[2])}`).reverse();
      svg.append(s("polygon", { points: [...up, ...down].join(" "), fill: color, "fill-opacity": 0.13 }));
    }
    const line = one.points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ");
    svg.append(s("polyline", { class: "line", points: line, stroke: color, "stroke-dasharray": one.dash || runDash(one.run) }));
    if (one.points.length <= 30 && !one.dash) for (const p of one.points) svg.append(s("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.4, fill: color }));
  }
  const stops = [...new Set(steps)].sort((a, b) => a - b);
  const read = (step) => series.map((one) => {
    const point = one.points.find((p) => p[0] === step);
    return point && [one.run, [runs.length > 1 && runs[one.run].name, one.label].filter(Boolean).join(", "), format(point[1], chart.unit) + (point.length > 2 ? ` [${format(point[2], chart.unit)}, ${format(point[3], chart.unit)}]` : "")];
  }).filter(Boolean);
  const labels = new Map(series.filter((one) => one.label).map((one) => [one.label, one.dash]));
  const key = labels.size > 1 ? h("ul", { class: "key dashes" }, [...labels].map(([label, dash]) => h("li", {}, s("svg", { viewBox: "0 0 26 6", width: 26, height: 6, "aria-hidden": "true" }, s("line", { x1: 0, x2: 26, y1: 3, y2: 3, class: "line", stroke: "currentColor", "stroke-dasharray": dash })), label))) : null;
  return { nodes: [readable(svg, stops, x, read), key], rows: stops.map((step) => [step, read(step)]) };
}

/** A line under the pointer or the arrow keys, and what it crosses. */
function readable(svg, stops, x, read) {
  const output = h("output", { class: "readout", hidden: true });
  const cross = s("line", { class: "cross", y1: TOP, y2: H - BOTTOM, visibility: "hidden" });
  svg.append(cross);
  let at = -1;
  const show = (i) => {
    at = i;
    const step = stops[i];
    cross.setAttribute("x1", x(step));
    cross.setAttribute("x2", x(step));
    cross.setAttribute("visibility", "visible");
    output.hidden = false;
    output.replaceChildren(h("b", {}, "step " + step), ...read(step).map(([run, label, value]) =>
      h("span", { style: run === null ? null : "--c: " + runColor(run) }, label ? label + " " : "", h("b", {}, value))));
  };
  const hide = () => { cross.setAttribute("visibility", "hidden"); output.hidden = true; at = -1; };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
    const place = ((event.clientX - box.left) / box.width) * width;
    let best = 0;
    stops.forEach((step, i) => { if (Math.abs(x(step) - place) < Math.abs(x(stops[best]) - place)) best = i; });
    show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(Math.max(0, Math.min(stops.length - 1, at + move)));
  });
  return h("div", { class: "plot" }, svg, output);
}

const PARTS = 9;

function part(i) {
  return `var(--part-${Math.min(i, PARTS - 1)})`;
}

/** The parts of every step on top of each other, one plot a run on the same scale. */
function stackChart(chart, runs, visible) {
  const series = chart.series.filter((one) => visible(one.run));
  if (!series.length) return null;
  const names = chart.parts;
  const sum = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);
  const high = Math.max(...series.flatMap((one) => one.steps.map(([, parts]) => sum(parts)))) || 1;
  const plots = series.map((one) => {
    const stops = one.steps.map(([step]) => step);
    const pad = 0.5;
    const { svg, x, y } = frame(`${chart.title}, ${runs[one.run].name}`, [stops[0] - pad, stops.at(-1) + pad], 0, high, chart.unit);
    const gap = (x(stops.at(-1) + pad) - x(stops[0] - pad)) / (stops.at(-1) - stops[0] + 1);
    const bar = Math.max(0.8, gap - Math.min(2, gap * 0.25));
    const base = stops.map(() => 0);
    names.forEach((name, i) => {
      let d = "";
      one.steps.forEach(([step, parts], j) => {
        const value = own(parts, name) || 0;
        if (!value) return;
        d += `M${(x(step) - bar / 2).toFixed(1)},${y(base[j]).toFixed(1)}h${bar.toFixed(1)}V${y(base[j] + value).toFixed(1)}h${(-bar).toFixed(1)}Z`;
        base[j] += value;
      });
      if (d) svg.append(s("path", { d, fill: part(i) }));
    });
    const read = (step) => Object.entries(one.steps.find(([other]) => other === step)[1]).sort((a, b) => b[1] - a[1])
      .map(([name, value]) => [null, name, format(value, chart.unit)]);
    const title = series.length > 1 ? h("h4", { style: "--c: " + runColor(one.run) }, runs[one.run].name) : null;
    return { node: h("div", { class: "one" }, title, readable(svg, stops, x, read)), rows: stops.map((step) => [`${step} (${runs[one.run].name})`, read(step)]) };
  });
  const key = h("ul", { class: "key" }, names.map((name, i) => i < PARTS - 1 || names.length === PARTS
    ? h("li", { style: `--c: ${part(i)}` }, name) : i === PARTS - 1 ? h("li", { style: `--c: ${part(i)}` }, `${names.length - i} more`) : null));
  return { nodes: [h("div", { class: "multiples" }, plots.map((plot) => plot.node)), key], rows: plots.flatMap((plot) => plot.rows) };
}

/** Shares of the whole run by category, one bar a run. */
function barChart(chart, runs, visible) {
  const series = chart.series.filter((one) => visible(one.run));
  if (!series.length) return null;
  const totals = series.map((one) => Object.values(one.sums).reduce((a, b) => a + b, 0) || 1);
  const share = (i, name) => (own(series[i].sums, name) || 0) / totals[i];
  const high = Math.max(...series.flatMap((_, i) => chart.parts.map((name) => share(i, name)))) * 1.1 || 1;
  const label = series.map((one, i) => `${runs[one.run].name}: ` + chart.parts.map((name) => `${name} ${format(share(i, name), "%")}`).join(", ")).join("; ");
  const { svg, y } = frame(`${chart.title}. ${label}`, [0, 0], 0, high, "%");
  svg.querySelectorAll("text[text-anchor=middle]").forEach((node) => node.remove());
  const slot = (W - LEFT - RIGHT) / chart.parts.length, bar = Math.min(46, (slot * 0.72) / series.length);
  chart.parts.forEach((name, j) => {
    const middle = LEFT + slot * (j + 0.5);
    svg.append(s("text", { class: "tick", x: middle, y: H - 8, "text-anchor": "middle" }, name));
    series.forEach((one, i) => {
      const value = share(i, name), left = middle + (i - series.length / 2) * bar;
      const rect = s("rect", { x: left + 1, width: Math.max(1, bar - 2), y: y(value), height: H - BOTTOM - y(value), rx: 2, fill: runColor(one.run) });
      rect.append(s("title", {}, `${runs[one.run].name}: ${name}, ${format(own(one.sums, name) || 0)} (${format(value, "%")})`));
      svg.append(rect);
      if (value > 0 && bar > 26) svg.append(s("text", { class: "tick value", x: left + bar / 2, y: y(value) - 4, "text-anchor": "middle" }, Math.round(100 * value) + "%"));
    });
  });
  const rows = chart.parts.map((name) => [name, series.map((one, i) => [one.run, runs[one.run].name, `${format(own(one.sums, name) || 0)} (${format(share(i, name), "%")})`])]);
  return { nodes: [h("div", { class: "plot" }, svg)], rows };
}

/** Said below the title; percent stands on the axis. */
const UNITS = { s: "In seconds.", tokens: "In tokens.", nats: "In nats." };
const FORMS = { lines: lineChart, stack: stackChart, bars: barChart };

/** width: of the card, in columns; one that is wider is drawn with more steps to see, not with larger letters. */
function chartCard(chart, runs, visible, width = 1) {
  const plots = chart.form === "stack" ? Math.max(1, chart.series.filter((one) => visible(one.run)).length) : 1;
  W = Math.round((420 * width) / Math.min(plots, Math.max(1, Math.floor((420 * width) / 230))));
  const drawn = FORMS[chart.form](chart, runs, visible);
  W = 420;
  if (!drawn) return null;
  const note = [UNITS[chart.unit], chart.note].filter(Boolean).join(" ");
  const table = h("details", { class: "data", ontoggle: () => { if (table.open && !table.querySelector("table")) table.append(dataTable(chart, drawn.rows)); } }, h("summary", {}, "Data"));
  return h("figure", { class: "card" },
    h("figcaption", {}, h("h3", {}, chart.title), note ? h("p", {}, note) : null), ...drawn.nodes, table);
}

function dataTable(chart, rows) {
  return h("div", { class: "scroll" }, h("table", {}, h("caption", { class: "unseen" }, chart.title), h("tbody", {}, rows.map(([head, cells]) =>
    h("tr", {}, h("th", { scope: "row" }, head), h("td", {}, cells.map(([, label, value]) => `${label ? label + ": " : ""}${value}`).join(" · ")))))));
}
