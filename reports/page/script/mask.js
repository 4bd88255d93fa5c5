// The view of one mask: its definition, the time of each backend or why there is none, the times over S.

function maskView(app) {
  const { state, data, group } = app;
  const directions = state.direction ? [state.direction] : DIRECTIONS;
  const facts = Object.hasOwn(data.masks, state.mask) ? data.masks[state.mask] : null;
  const lengths = app.lengthsOf(state.mask);
  const s = lengths.includes(Number(state.s)) ? Number(state.s) : lengths[lengths.length - 1];
  const back = el("a", { href: app.link({ mask: "", s: "", direction: "" }) }, "← all masks");
  const title = el("h2", { tabindex: "-1" }, breakable(state.mask));
  if (!group.masks.has(state.mask)) {
    return { element: el("section", {}, el("p", {}, back), title,
      el("p", {}, `This mask has no forward or backward cell with ${group.shape} ${group.dtype}.`)) };
  }
  const charts = [];
  const tabs = lengths.length > 1 ? el("p", { class: "tabs" }, "S = ", lengths.map((one) =>
    el("a", { href: app.link({ s: String(one) }), "aria-current": one === s ? "true" : null },
      one.toLocaleString("en-US")))) : el("p", { class: "tabs" }, `S = ${s.toLocaleString("en-US")}`);
  const parts = directions.map((direction) => {
    const chart = sweep(app, direction, lengths);
    if (chart.draw) charts.push(chart.draw);
    return el("div", { class: "part" }, el("h3", {}, direction),
      timing(app, direction, s), chart.element);
  });
  return {
    element: el("section", { class: "mask" },
      el("p", { class: "back" }, back),
      el("div", { class: "what" }, facts ? maskPicture(state.mask, facts.picture) : null,
        el("div", {}, title, facts ? definition(facts) : el("p", {}, "This mask is not in the catalogue."),
          tabs)),
      el("div", { class: directions.length > 1 ? "parts two" : "parts" }, parts),
      kernelOptions(app), facts?.code ? maskCode(facts) : null),
    draw: () => charts.forEach((draw) => draw()),
  };
}

function definition(facts) {
  const source = /^https:\/\//.test(facts.source)
    ? el("a", { href: facts.source, rel: "noreferrer" }, "source") : null;
  const given = facts.parameters ? `, with ${facts.parameters}` : "";
  return el("p", {}, "Query q sees key k: ", el("b", {}, facts.definition), `${given}. `, source);
}

/** The pattern of a small example: a rectangle for each run of attended keys of a query. */
function maskPicture(name, { rows, padding }) {
  const n = rows.length, attended = [], hidden = [];
  const rectangle = (x, y, width, height) => `M${x} ${y}h${width}v${height}h${-width}z`;
  rows.forEach((row, y) => {
    for (const run of row.matchAll(/1+/g)) attended.push(rectangle(run.index, y, run[0].length, 1));
  });
  for (const token of padding) {
    hidden.push(rectangle(0, token, n, 1), rectangle(token, 0, 1, n));
  }
  const lines = Array.from({ length: n - 1 }, (_, i) => `M0 ${i + 1}h${n}M${i + 1} 0v${n}`).join("");
  const text = `${name}: which keys (left to right) each query (top to bottom) sees, in a small example`;
  return el("figure", {},
    svg("svg", { viewBox: `0 0 ${n} ${n}`, class: "picture", role: "img", "aria-label": text },
      svg("path", { d: rectangle(0, 0, n, n), class: "masked" }),
      svg("path", { d: hidden.join(""), class: "padding" }),
      svg("path", { d: attended.join(""), class: "attended" }),
      svg("path", { d: lines, class: "lines", "stroke-width": n / 700 })),
    el("figcaption", {}, padding.length ? "queries ↓ keys →, grey: padding" : "queries ↓ keys →"));
}

/** All backends at one length as bars, with the form of each; then those without a time. */
function timing(app, direction, s) {
  const { cells, state } = app, unit = UNITS[state.unit];
  const problem = app.problem(state.mask, direction, s);
  const ranked = app.ranked(state.mask, direction, s);
  const values = ranked.map((one) => unit.of(cells, one));
  const flexValue = values[ranked.findIndex((one) => cells.backend[one.i] === "flex")] ?? null;
  const known = values.filter((value) => value !== null);
  let longest = Math.max(...known, 0);
  if (!unit.isLargerBetter && flexValue) longest = Math.min(longest, 4 * flexValue);  // room for the short bars
  const timed = ranked.map((one, n) => {
    const name = cells.backend[one.i];
    return el("tr", { class: one.isWinner ? "wins" : null, "data-cell": one.i, tabindex: "0" },
      el("th", { scope: "row" }, app.styles.swatch(name), backendName(name)),
      el("td", { class: "bar" }, bar(app.styles.color(name), values[n], one.interval, longest)),
      el("td", { class: "number" }, valueText(cells, one, state.unit)),
      el("td", { class: "number" }, one.overFlex === null ? "–" : `${one.overFlex.toFixed(2)}×`),
      el("td", { class: "how" }, one.isWinner && ranked.filter((other) => other.isWinner).length > 1 ? "tied. " : null,
        cells.form[one.i] || null, commandButton(app, one.i)));
  });
  const untimed = problem.filter((i) => cells[state.by][i] === null).map((i) => {
    const name = cells.backend[i];
    const why = cells.outcome[i] === "timed" ? `not timed ${MEASURE_LABELS[state.by]}${cells.graphReason[i] ? `: ${cells.graphReason[i]}` : ""}`
      : `${cells.outcome[i]}: ${cells.reason[i]}`;
    return el("tr", { class: "untimed", "data-cell": i, tabindex: "0" },
      el("th", { scope: "row" }, app.styles.swatch(name), backendName(name)),
      el("td", { colspan: 4, class: "how" }, why, commandButton(app, i)));
  });
  if (!problem.length) return el("p", {}, "No cell of the chosen backends in this run.");
  return el("div", { class: "scroll" }, el("table", { class: "timing" },
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "backend"), el("td", { class: "bar" }),
      el("th", { scope: "col", class: "number" }, unit.label),
      el("th", { scope: "col", class: "number" }, "× flex"),
      el("th", { scope: "col" }, "form, or why there is no time"))),
    el("tbody", {}, timed, untimed)));
}

function bar(color, value, interval, longest) {
  if (value === null || !longest) return null;
  const isCut = value > longest * 1.0001;
  const length = (100 * Math.min(value, longest)) / longest;
  const half = isCut ? 0 : interval * length;
  return svg("svg", { viewBox: "0 0 104 10", preserveAspectRatio: "none", "aria-hidden": "true", class: isCut ? "cut" : null },
    svg("path", { d: `M0 1h${length}v8h${-length}z`, fill: color }),
    isCut ? svg("path", { d: "M94 10l4-10M97 10l4-10", class: "gap" }) : null,
    half > 0.4 ? svg("path", { d: `M${length - half} 5h${2 * half}M${length - half} 3v4M${length + half} 3v4`, class: "whisker" }) : null);
}

function commandButton(app, i) {
  const command = commandOf(app.cells, i, Object.hasOwn(app.data.masks, app.cells.mask[i]));
  if (!command) return null;
  const button = copyButton(`the command that times ${app.cells.backend[i]} again`, () => command);
  button.title = command;
  button.textContent = "command";
  button.addEventListener("click", () => announce(`Copied: ${command}`));
  return button;
}

/** The times of all backends over S as a chart, and as a table for those who cannot see it. */
function sweep(app, direction, lengths) {
  const { cells, state } = app, unit = UNITS[state.unit];
  const ranked = new Map(lengths.map((s) => [s, app.ranked(state.mask, direction, s)]));
  const names = app.styles.sorted(distinct([...ranked.values()].flat().map((one) => cells.backend[one.i])));
  const find = (name, s) => ranked.get(s).find((one) => cells.backend[one.i] === name);
  const lines = names.map((name) => {
    const ones = lengths.map((s) => find(name, s));
    const y = ones.map((one) => {
      const value = one ? unit.of(cells, one) : null;
      return value > 0 ? value : null;
    });
    return {
      label: name, color: app.styles.color(name), outline: app.styles.outline(name), y,
      half: ones.map((one, n) => (y[n] === null ? null : y[n] * one.interval)), ones,
    };
  }).filter((line) => line.y.some((value) => value !== null));
  if (lengths.length < 2 || !lines.length) return { element: null };
  const host = el("div", { class: "chart", role: "img", "aria-label": `${unit.title} over S, ${direction}. The table below has the numbers.` });
  const legend = el("p", { class: "legend" }, lines.map((line) =>
    el("span", {}, app.styles.swatch(line.label), backendName(line.label))));
  const table = el("details", {}, el("summary", {}, `the numbers of the chart, ${unit.label}`),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "backend"),
        lengths.map((s) => el("th", { scope: "col", class: "number" }, s.toLocaleString("en-US"))))),
      el("tbody", {}, lines.map((line) => el("tr", {}, el("th", { scope: "row" }, line.label),
        line.y.map((value) => el("td", { class: "number" }, short(value)))))))));
  const draw = () => drawChart(host, {
    x: lengths, lines, isLogX: true, isLogY: !unit.isLargerBetter, yTitle: unit.title, ticks: lengths,
    xText: (s) => (s >= 1024 && s % 1024 === 0 ? `${s / 1024}K` : String(s)),
    onPoint: (line, place, box) => {
      if (line < 0) app.tip.hide();
      else app.tip.show(lines[line].ones[place].i, box);
    },
  });
  return { element: el("div", {}, host, legend, table), draw };
}

function kernelOptions(app) {
  const { direction, mask } = app.state;
  const found = app.data.options.filter((entry) =>
    entry.mask === mask && (!direction || entry.direction === direction));
  if (!found.length) return null;
  return el("div", {}, el("h3", {}, "FlexAttention's kernel options that were found"), found.map((entry) =>
    el("details", {}, el("summary", {}, `${entry.title}: `,
      entry.found.length ? entry.found.map((one) =>
        `${one.options} (${one.gain.toFixed(2)} ± ${(one.gain * one.interval).toFixed(2)} times as fast)`).join("; ")
        : "the default is best"),
    el("p", {}, entry.where), codeBlock("the call with these options", entry.snippet))));
}

function maskCode(facts) {
  return el("div", {}, el("h3", {}, `mask_mod for FlexAttention, ${facts.codeOf}`), codeBlock("the mask_mod", facts.code));
}
