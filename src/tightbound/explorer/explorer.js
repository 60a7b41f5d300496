// The explorer's page: a map, sliders, one example. The server decodes; nothing is computed here but pictures.

const COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
const REGIONS = ["#b3d2f0", "#6faade", "#2f74b5"];
const INK = "#333333", PALE = "#d8d8d8", OURS = "#e76300";
const SLIDERS = 8; // latents with a slider that is not folded away
const LINE = 9; // pictures along a line
const NOISE = 40;

const at = (id) => document.getElementById(id);
const state = {
  facts: null, map: null, classes: [], colours: [], base: null, // what the run is
  z: [], cross: [0, 0], from: null, kept: [], // where the hand is
  asked: 0, example: null, bounds: [], truth: null, // the example that was asked for last
};

// ---------------------------------------------------------------- talking to the server

async function ask(name, given) {
  const options = given === undefined ? {} : { method: "POST", body: given instanceof Blob ? given : JSON.stringify(given) };
  let answer;
  try {
    answer = await fetch(name, options);
  } catch {
    trouble("The server has gone: start it again with “tightbound explore” and open the address that it prints.");
    throw new Error("gone");
  }
  const found = await answer.json().catch(() => ({ error: `the server answered with HTTP ${answer.status}` }));
  trouble("");
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function trouble(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

/** Say what went wrong, where no place beside a button is for it. */
function complain(error) {
  if (error.message !== "gone") trouble(error.message);
}

/** Return a function that runs one call at a time, and of those that came meanwhile only the last. */
function latest(run) {
  let busy = false, next = null;
  return async function call(...given) {
    if (busy) { next = given; return; }
    busy = true;
    await run(...given).catch(complain);
    busy = false;
    if (next) { const waiting = next; next = null; call(...waiting); }
  };
}

/** Run what a button asks for, and say what is wrong beside it. */
function doing(note, run) {
  return async (event) => {
    event?.preventDefault();
    try { await run(event); } catch (error) { if (error.message !== "gone") note.textContent = error.message; }
  };
}

// ---------------------------------------------------------------- numbers and shapes

const shown = (number, digits = 2) => (number === null ? "–" : number.toFixed(digits).replace("-", "−"));
const withError = (number, error) => shown(number) + (error === null ? "" : ` ± ${shown(error)}`);
const places = () => state.map.axes;
/** Where a z is on the map. */
const onMap = (z) => places().map((axis) => axis.reduce((sum, a, i) => sum + a * (z[i] - state.map.middle[i]), 0));
/** The z at a place of the map; what the map does not show stays in the middle. */
const under = ([u, v]) => state.map.middle.map((middle, i) => middle + u * places()[0][i] + v * places()[1][i]);

/** A frame that turns numbers into pixels, and back. */
function frame(canvas, [left, right], [low, high]) {
  const ratio = window.devicePixelRatio || 1, { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const pad = 26;
  return {
    pen, width, height,
    x: (u) => pad + ((u - left) / (right - left)) * (width - 2 * pad),
    y: (v) => height - pad - ((v - low) / (high - low)) * (height - 2 * pad),
    back: (x, y) => [left + ((x - pad) / (width - 2 * pad)) * (right - left), low + ((height - pad - y) / (height - 2 * pad)) * (high - low)],
    ends: (digits = 1, across = [shown(left, digits), shown(right, digits)]) => {
      pen.fillStyle = INK;
      pen.font = "11px system-ui, sans-serif";
      pen.textAlign = "left"; pen.fillText(across[0], pad, height - 8);
      pen.textAlign = "right"; pen.fillText(across[1], width - pad, height - 8);
      pen.save(); pen.translate(14, height - pad); pen.rotate(-Math.PI / 2);
      pen.textAlign = "left"; pen.fillText(shown(low, digits), 0, 0);
      pen.textAlign = "right"; pen.fillText(shown(high, digits), height - 2 * pad, 0);
      pen.restore();
    },
  };
}

function dot(pen, x, y, radius, colour) {
  pen.fillStyle = colour;
  pen.beginPath(); pen.arc(x, y, radius, 0, 2 * Math.PI); pen.fill();
}

function path(pen, points, colour, width = 1.5) {
  pen.strokeStyle = colour; pen.lineWidth = width;
  pen.beginPath(); points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y))); pen.stroke();
}

/** Standard normal numbers that are the same every time (mulberry32, Box–Muller). */
function noise(count) {
  let seed = 1;
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

// ---------------------------------------------------------------- what x looks like

function element(name, text, more = {}) {
  const made = Object.assign(document.createElement(name), more);
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(look) {
  const [height, width] = state.facts.size, canvas = element("canvas", undefined, { width, height });
  const bytes = Uint8Array.from(atob(look), (letter) => letter.charCodeAt(0));
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) data.data.set([bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2], 255], 4 * i);
  canvas.getContext("2d").putImageData(data, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${width} by ${height} pixels, mean brightness ${Math.round(bytes.reduce((a, b) => a + b, 0) / bytes.length / 2.55)} %`);
  return canvas;
}

/** One column as bars; `outline` are shares to compare with. */
function bars(column, shares, outline) {
  const box = element("div", undefined, { className: "margin" });
  const most = Math.max(...shares, ...(outline ?? []), 1e-9), count = shares.length;
  const best = shares.indexOf(Math.max(...shares));
  const edge = (bin) => column.dates[bin] ?? shortened(column.bins[bin]);
  const name = (bin) => column.levels[bin] ?? `${edge(bin)} … ${edge(bin + 1)}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${count} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${column.name}: most often ${name(best)}, ${Math.round(100 * shares[best])} %`);
  shares.forEach((share, i) => svg.append(bar(i, share / most, { fill: COLOURS[0] })));
  outline?.forEach((share, i) => svg.append(bar(i, share / most, { fill: "none", stroke: INK, "stroke-width": 1, "vector-effect": "non-scaling-stroke" })));
  const ends = element("div", undefined, { className: "ends" });
  const [first, last] = column.levels.length ? [column.levels[0], column.levels.at(-1)] : [edge(0), edge(column.bins.length - 1)];
  ends.append(element("span", first), element("span", last));
  box.append(element("b", column.name, { title: column.name }), svg, ends);
  return box;
}

function bar(i, height, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const all = { x: i + 0.04, width: 0.92, y: 1 - height, height, ...attributes };
  Object.entries(all).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

const shortened = (number) => String(Number(number.toPrecision(4))).replace("-", "−");

function show(box, look, outline) {
  box.replaceChildren(...(state.facts.image ? [picture(look)] : look.map((shares, i) => bars(state.facts.columns[i], shares, outline?.[i]))));
}

/** A row as it is: a picture, or its cells in words. */
function showCells(box, look) {
  if (state.facts.image) return show(box, look);
  box.replaceChildren(...look.map((cell, i) => {
    const made = element("div", undefined, { className: "margin" });
    made.append(element("b", state.facts.columns[i].name), element("span", cell ?? "missing"));
    return made;
  }));
}

// ---------------------------------------------------------------- z: the sliders, the map, what is kept

const decode = latest(async (z) => {
  const { looks } = await ask("decode", { z: [z] });
  show(at("decoded"), looks[0], state.base);
  at("decoded").dataset.z = z.map((number) => number.toFixed(3)).join(" ");
});

function go(z) {
  state.z = z.slice();
  state.cross = onMap(z);
  for (const input of document.querySelectorAll(".slider input")) setSlider(input, z[input.dataset.latent]);
  at("place").textContent = `z on the map: ${state.cross.map((number) => shown(number)).join(", ")}`;
  drawMap();
  decode(state.z);
}

function setSlider(input, value) {
  input.value = value;
  input.setAttribute("aria-valuetext", shown(value));
  input.nextElementSibling.textContent = shown(value);
}

function sliders() {
  state.facts.latents.forEach((latent, i) => {
    const line = element("div", undefined, { className: "slider" }), id = `latent-${latent.number}`;
    const label = element("label", `latent ${latent.number}${latent.kl === null ? "" : ` (${shown(latent.kl, 1)} nats)`}`, { htmlFor: id });
    const input = element("input", undefined, { type: "range", id, min: latent.low, max: latent.high, step: "any" });
    input.dataset.latent = latent.number;
    input.addEventListener("keydown", (event) => stepped(event, input, latent));
    input.addEventListener("input", () => moved(input));
    // The slider itself says its value; as live regions all of them would speak at every step on the map.
    line.append(label, input, element("output", "", { htmlFor: id, ariaLive: "off" }));
    at(i < SLIDERS ? "sliders" : "other-sliders").append(line);
  });
  at("more").hidden = state.facts.latents.length <= SLIDERS;
}

/** Arrow keys move by a fiftieth of the way: a range without steps would move by its own idea of one. */
function stepped(event, input, latent) {
  const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  input.value = Number(input.value) + (way * (latent.high - latent.low)) / 50;
  moved(input);
}

function moved(input) {
  const z = state.z.slice();
  z[input.dataset.latent] = Number(input.value);
  go(z);
}

async function keep(z) {
  await keepAll([z], `z at ${onMap(z).map((number) => shown(number)).join(", ")}`);
}

async function keepAll(points, name) {
  const { looks } = await ask("decode", { z: points });
  points.forEach((z, i) => {
    const item = element("li"), button = element("button", undefined, { type: "button", title: "Go there" });
    button.setAttribute("aria-label", `Go to ${name}${points.length > 1 ? `, ${i + 1} of ${points.length}` : ""}`);
    button.append(state.facts.image ? picture(looks[i]) : element("span", `z = ${onMap(z).map((number) => shown(number)).join(", ")}`));
    button.addEventListener("click", () => go(z));
    item.append(button);
    at("kept").append(item);
    state.kept.push(z);
  });
  at("kept-none").hidden = true;
  at("forget").hidden = false;
  drawMap();
}

function along(from, to) {
  const ends = [under(from), under(to)];
  return Array.from({ length: LINE }, (_, i) => ends[0].map((a, j) => a + (i / (LINE - 1)) * (ends[1][j] - a)));
}

let mapFrame = null;

function drawMap() {
  const canvas = at("map"), { points } = state.map;
  const ranges = [0, 1].map((axis) => spread(points.map((point) => point[axis])));
  mapFrame = frame(canvas, ...ranges);
  const { pen, x, y } = mapFrame;
  points.forEach(([u, v], i) => dot(pen, x(u), y(v), 2.2, state.colours[i]));
  state.kept.forEach((z) => { const [u, v] = onMap(z); dot(pen, x(u), y(v), 5, INK); dot(pen, x(u), y(v), 3, "#ffffff"); });
  if (state.from) path(pen, [state.from, state.cross].map(([u, v]) => [x(u), y(v)]), INK, 2);
  const [cx, cy] = [x(state.cross[0]), y(state.cross[1])];
  path(pen, [[cx - 9, cy], [cx + 9, cy]], INK, 2);
  path(pen, [[cx, cy - 9], [cx, cy + 9]], INK, 2);
  mapFrame.ends();
}

/** Give the ten most frequent labels a colour each; the others are pale. */
function colour() {
  const { labels, points } = state.map, counts = new Map();
  labels?.forEach((label) => counts.set(label, (counts.get(label) ?? 0) + 1));
  const most = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, COLOURS.length);
  state.classes = most.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  const places = new Map(state.classes.map((label, i) => [label, COLOURS[i]]));
  state.colours = points.map((_, i) => (labels ? (places.get(labels[i]) ?? PALE) : COLOURS[0]));
  state.others = counts.size > most.length;
}

function spread(values) {
  const low = Math.min(...values), high = Math.max(...values), margin = 0.05 * (high - low) || 1;
  return [low - margin, high + margin];
}

function legend() {
  const { names } = state.map;
  at("map-axes").textContent = `Across: ${names[0]}. Up: ${names[1]}.`;
  const lines = state.classes.map((label, i) => [label, COLOURS[i]]);
  if (state.others) lines.push(["others", PALE]);
  lines.forEach(([label, shade]) => {
    const item = element("li"), mark = element("span");
    mark.style.background = shade;
    item.append(mark, label);
    at("legend").append(item);
  });
}

function mapEvents() {
  const canvas = at("map");
  let down = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return mapFrame.back(event.clientX - box.left, event.clientY - box.top);
  };
  const far = (a, b) => Math.hypot(mapFrame.x(a[0]) - mapFrame.x(b[0]), mapFrame.y(a[1]) - mapFrame.y(b[1])) > 8;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    down = place(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = place(event);
    if (down && far(down, here)) state.from = down;
    go(under(here));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!down) return;
    const [start, here] = [down, place(event)];
    down = state.from = null;
    (far(start, here) ? keepAll(along(start, here), "the line") : keep(under(here))).catch(complain);
  });
  canvas.addEventListener("pointercancel", () => { down = state.from = null; drawMap(); });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (way) {
      const [corner, other] = [mapFrame.back(0, 0), mapFrame.back(mapFrame.width / 60, mapFrame.height / 60)];
      go(under(state.cross.map((number, i) => number + way[i] * Math.abs(other[i] - corner[i]))));
    } else if (event.key === "Enter") {
      keep(under(state.cross)).catch(complain);
    } else if (event.key.toLowerCase() === "l") {
      if (state.from) { keepAll(along(state.from, state.cross), "the line").catch(complain); state.from = null; }
      else state.from = state.cross.slice();
      drawMap();
    } else return;
    event.preventDefault();
  });
}

// ---------------------------------------------------------------- one example

/** Look at what `find` finds, a row and its name, unless another example is asked for meanwhile. */
async function look(find) {
  const mine = ++state.asked, stale = () => mine !== state.asked, note = at("example-note");
  note.textContent = "Looking…";
  try {
    await lookAt(find, stale, note);
  } catch (error) {
    if (!stale() && error.message !== "gone") note.textContent = error.message;
  }
}

async function lookAt(find, stale, note) {
  const { given, name } = await find();
  if (stale()) return;
  const found = await ask("example", given);
  if (stale()) return;
  Object.assign(state, { example: found, bounds: [], truth: null });
  at("bound").textContent = "Estimating…";
  at("bounds").width = at("bounds").width; // wipes it
  note.textContent = `${name}${found.label === null ? "" : `, label ${found.label}`}`;
  at("example").hidden = false;
  showCells(at("original"), found.looks);
  show(at("reconstruction"), found.reconstruction);
  drawPosterior();
  go(found.mean);
  const evidence = await ask("evidence", given);
  if (stale()) return;
  state.bounds = evidence.bounds.filter(({ nats }) => nats !== null);
  state.ess = evidence.ess;
  at("draws").max = Math.max(state.bounds.length - 1, 0);
  if (!state.bounds.length) at("bound").textContent = "p(x | z) is 0 for every z that was drawn: there is no bound.";
  drawBounds();
  if (!state.facts.truth) return;
  const truth = await ask("truth", given);
  if (stale()) return;
  state.truth = truth;
  drawPosterior();
  drawBounds();
}

function drawBounds() {
  const bounds = state.bounds, chosen = Number(at("draws").value), doublings = ({ k }) => Math.log2(k);
  if (!bounds.length) return;
  const values = bounds.flatMap(({ nats, se }) => [nats - (se ?? 0), nats + (se ?? 0)]);
  if (state.truth) values.push(state.truth.log_evidence);
  const { pen, x, y, ends, width } = frame(at("bounds"), [0, doublings(bounds.at(-1))], spread(values));
  if (state.truth) {
    const level = y(state.truth.log_evidence);
    path(pen, [[x(0), level], [x(doublings(bounds.at(-1))), level]], REGIONS[2], 1.5);
    pen.fillStyle = INK; pen.textAlign = "right"; pen.font = "11px system-ui, sans-serif";
    pen.fillText("log p(x), by quadrature", width - 28, level - 5);
  }
  path(pen, bounds.map((bound) => [x(doublings(bound)), y(bound.nats)]), OURS);
  bounds.forEach((bound, i) => {
    const across = x(doublings(bound)), { nats, se } = bound;
    path(pen, [[across, y(nats - (se ?? 0))], [across, y(nats + (se ?? 0))]], OURS);
    dot(pen, across, y(nats), i === chosen ? 6 : 3, i === chosen ? INK : OURS);
  });
  ends(1, [bounds[0], bounds.at(-1)].map(({ k }) => `k = ${k.toLocaleString()}`));
  const { k, nats, se } = bounds[chosen];
  const truth = state.truth;
  const gap = truth ? `; ${shown(truth.log_evidence - nats)} below log p(x) = ${withError(truth.log_evidence, truth.error)}, by quadrature` : "";
  const doubt = se === null ? `, without an error: ${shown(state.ess, 0)} effective draws are too few for one` : "";
  at("bound").textContent = `k = ${k.toLocaleString()}${k === 1 ? " (the ELBO)" : ""}: log p(x) ≥ ${withError(nats, se)} nats${doubt}${gap}`;
  at("draws").setAttribute("aria-valuetext", `k = ${k}`);
}

const dots = (left, right) => left.reduce((sum, value, i) => sum + value * right[i], 0);

function drawPosterior() {
  const { mean, factor } = state.example, { truth } = state, { pair, masses } = state.facts;
  const [a, b] = pair, flat = a === b, zero = [0, 1];
  const middle = pair.map((latent) => mean[latent]), scale = factor.map((row) => Math.sqrt(dots(row, row)));
  const spreads = middle.map((number, i) => [number - 4 * scale[i], number + 4 * scale[i]]);
  const move = Number(at("moved").value), withNoise = at("noise").checked;
  const axes = truth ? [truth.axes[0], flat ? zero : truth.axes[1]] : [];
  const ranges = spreads.map((range, i) => {
    const all = [...range, ...(axes[i] ? [axes[i][0], axes[i].at(-1)] : []), ...(withNoise && move < 1 ? [-3, 3] : [])];
    return [Math.min(...all), Math.max(...all)];
  });
  if (flat) ranges[1] = [0, 1];
  const { pen, x, y, ends } = frame(at("posterior"), ...ranges);
  if (truth) region(pen, x, y, axes, flat ? truth.inside.map((inside) => [inside, inside]) : truth.inside);
  if (flat) [-1.645, 1.645].forEach((side) => { const u = middle[0] + side * scale[0]; path(pen, [[x(u), y(0)], [x(u), y(1)]], OURS, 2); });
  else masses.forEach((mass, i) => path(pen, ellipse(middle, factor, mass).map(([u, v]) => [x(u), y(v)]), OURS, 2.2 - 0.5 * i));
  if (withNoise) {
    const standard = noise(NOISE * mean.length);
    for (let n = 0; n < NOISE; n++) {
      const own = standard.slice(n * mean.length, (n + 1) * mean.length);
      const [u, v] = pair.map((latent, i) => (1 - move) * own[latent] + move * (middle[i] + dots(factor[i], own)));
      dot(pen, x(u), flat ? y((n + 0.5) / NOISE) : y(v), 3, INK);
    }
  }
  ends(2);
  at("posterior-title").textContent = truth ? "q(z | x) over the true p(z | x)" : `q(z | x), latents ${a} and ${b}`;
  const words = `${masses.map((mass) => Math.round(100 * mass)).join(", ")} % of the mass`;
  const lines = flat ? "Lines: where q(z | x) has 90 %" : `Lines: where q(z | x) has ${words}`;
  at("posterior-note").textContent = truth
    ? `Filled: where the true posterior p(z | x) has ${words}. ${lines}.`
    : `${lines}${state.facts.truth ? "." : ", in the two fullest latents. The true posterior is drawn for models with one or two latents."}`;
}

function region(pen, x, y, [first, second], inside) {
  const edge = (axis, i) => (axis.length < 2 ? axis[0] : i === 0 ? axis[0] : i === axis.length ? axis.at(-1) : (axis[i - 1] + axis[i]) / 2);
  inside.forEach((line, i) => line.forEach((level, j) => {
    if (!level) return;
    pen.fillStyle = REGIONS[level - 1];
    const [left, right, top, bottom] = [x(edge(first, i)), x(edge(first, i + 1)), y(edge(second, j + 1)), y(edge(second, j))];
    pen.fillRect(left, top, right - left + 0.6, bottom - top + 0.6);
  }));
}

/** The ellipse that holds so much of the mass of a Gaussian, from two rows of its factor. */
function ellipse(middle, [first, second], mass) {
  const l11 = Math.sqrt(dots(first, first)), l21 = dots(first, second) / l11, l22 = Math.sqrt(Math.max(dots(second, second) - l21 * l21, 0));
  const radius = Math.sqrt(-2 * Math.log(1 - mass));
  return Array.from({ length: 97 }, (_, n) => {
    const [c, s] = [radius * Math.cos((n * Math.PI) / 48), radius * Math.sin((n * Math.PI) / 48)];
    return [middle[0] + l11 * c, middle[1] + l21 * c + l22 * s];
  });
}

// ---------------------------------------------------------------- begin

function events() {
  mapEvents();
  const place = at("place");
  at("draw").addEventListener("click", doing(place, async () => go((await ask("prior", { seed: Math.floor(Math.random() * 2 ** 31) })).z)));
  at("keep").addEventListener("click", doing(place, () => keep(state.z)));
  at("reset").addEventListener("click", () => go(state.map.middle));
  at("forget").addEventListener("click", () => {
    state.kept = [];
    at("kept").replaceChildren();
    at("kept-none").hidden = false;
    at("forget").hidden = true;
    drawMap();
  });
  const row = () => look(() => ({ given: { row: Number(at("row").value) }, name: `${state.facts.part} row ${at("row").value}` }));
  at("pick").addEventListener("submit", (event) => { event.preventDefault(); row(); });
  at("any").addEventListener("click", () => { at("row").value = Math.floor(Math.random() * state.facts.rows); row(); });
  at("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (!file) return;
    look(async () => {
      const { row: given, rows } = await ask(`upload?name=${encodeURIComponent(file.name)}`, file);
      return { given, name: `${file.name}, row 0${rows > 1 ? ` of ${rows}` : ""}` };
    });
  });
  at("draws").addEventListener("input", drawBounds);
  at("moved").addEventListener("input", () => { at("noise").checked = true; drawPosterior(); });
  at("noise").addEventListener("change", drawPosterior);
  at("fix").addEventListener("submit", doing(at("given-note"), async () => {
    at("given-note").textContent = "Drawing…";
    const { shares, rows } = await ask("given", { text: at("given").value });
    at("given-note").textContent = `${rows} rows drawn under the conditions. Outlined is the model without them.`;
    show(at("fixed"), shares, state.base);
  }));
  window.addEventListener("resize", () => { drawMap(); if (state.example) { drawPosterior(); drawBounds(); } });
}

async function begin() {
  state.facts = await ask("facts");
  state.map = await ask("map");
  const { facts } = state;
  document.title = `${facts.name} · tightbound explorer`;
  at("name").textContent = facts.name;
  at("description").textContent = `${facts.description}. ELBO of the ${facts.part} rows: ${withError(facts.elbo.value, facts.elbo.se)} ${facts.unit}.`;
  at("row").max = facts.rows - 1;
  at("file").accept = facts.accepts.join(",");
  at("conditions").hidden = !facts.table;
  sliders();
  colour();
  legend();
  events();
  go(state.map.middle);
  document.body.dataset.ready = "yes";
  if (!facts.table) return;
  state.base = (await ask("given", { text: "" })).shares; // the model without conditions, to compare with
  decode(state.z);
}

begin().catch(complain);
