// The history: each cell over the runs, with steps, versions of torch and accepted changes.

const MAX_TRENDS = 200;
const DATE_WIDTH = 80;  // pixels of an axis that a date needs

function trendsView(app) {
  const { trends } = app.data;
  const rows = columns(trends.cells);
  const passes = app.filter();
  const shown = rows.name.map((_, i) => i).filter((i) => passes(rows, i));
  const chosen = shown.find((i) => rows.name[i] === app.state.trend) ?? shown[0];
  const host = el("div", { class: "chart", role: "img" });
  const reading = el("p", { class: "note reading", "aria-live": "polite" });
  const row = (i) => el("tr", { class: i === chosen ? "wins" : null },
    el("td", { class: "status" }, rows.status[i]),
    el("th", { scope: "row" }, el("a", { href: app.link({ trend: rows.name[i] }), "aria-current": i === chosen ? "true" : null }, breakable(rows.mask[i]))),
    el("td", { class: "name" }, app.styles.swatch(rows.backend[i]), backendName(rows.backend[i])),
    el("td", { class: "name" }, rows.direction[i]),
    el("td", { class: "number" }, rows.s[i].toLocaleString("en-US")),
    el("td", { class: "number" }, short(rows.median[i] * 1e3)),
    el("td", { class: "number" }, signedPercent(rows.change[i])),
    el("td", { class: "number" }, percent(rows.noise[i], 2)),
    el("td", { class: "number" }, rows.runs[i]),
    el("td", { class: "note" }, rows.reason[i]));
  const titles = ["status", "mask", "backend", "direction", "S", "last, ms", "change", "noise", "runs", "steps"];
  const accepted = trends.acceptances.map((one) =>
    `Accepted from ${one.since} (torch ${one.torch})${one.containing ? `, cells with ${one.containing}` : ""}: ${one.because}`);
  const title = chosen === undefined ? "No cell passes the filters."
    : `${rows.mask[chosen]}, ${rows.backend[chosen]}, ${rows.direction[chosen]}, S = ${rows.s[chosen]}`;
  return {
    element: el("section", {},
      el("h2", { tabindex: "-1" }, "Trends"),
      el("p", {}, `${trends.folder}: ${trends.conclusion}.`),
      el("h3", {}, title), host,
      el("p", { class: "legend" }, "Line: at one SM clock. Dots: as timed. Grey band: a step. Dashed: another torch. Dotted: an accepted change."),
      reading, noteList([...accepted, ...trends.notes]),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trends of all cells" },
        el("table", {}, el("thead", {}, el("tr", {}, headCells(titles))),
          el("tbody", {}, shown.slice(0, MAX_TRENDS).map(row)))),
      shown.length > MAX_TRENDS ? el("p", { class: "note" }, `${shown.length - MAX_TRENDS} more cells; the filters choose others.`) : null),
    draw: () => chosen !== undefined && drawTrend(app, host, reading, rows, chosen),
  };
}

function drawTrend(app, host, reading, rows, chosen) {
  const { trends } = app.data, { at, s, w, steps } = trends.series[chosen];
  if (!at.length) return;
  const runs = columns({ torch: trends.runs.torch, file: trends.runs.file });
  const color = app.styles.color(rows.backend[chosen]);
  const isAccepted = trends.acceptances.filter((one) => rows.name[chosen].includes(one.containing));
  host.setAttribute("aria-label", `Time over ${at.length} runs. ${rows.reason[chosen] || "No step."}`);
  const places = at.map((_, n) => n);
  drawChart(host, {
    x: places, isLogX: false, isLogY: true, yTitle: "time (ms)",
    ticks: everyNth(places, Math.max(1, Math.floor((host.clientWidth - 60) / DATE_WIDTH))),
    xText: (n) => trends.runs.saved[at[n]]?.slice(0, 10) ?? "",
    lines: [
      { label: "at one clock", color, y: w.map((value) => value * 1e3), width: 2 },
      { label: "as timed", color: cssColor("--muted"), y: s.map((value) => value * 1e3), width: 0, outline: MARKERS.o },
    ],
    behind: (u) => drawVersions(u, at, steps, runs.torch, trends.runs.saved, isAccepted),
    onPoint: (line, n) => {
      reading.textContent = n < 0 ? ""
        : `${runs.file[at[n]]}, ${trends.runs.saved[at[n]]} UTC, torch ${runs.torch[at[n]]}: ${short(s[n] * 1e3)} ms, at one clock ${short(w[n] * 1e3)} ms`;
    },
  });
}

/** At most `most` of the places, at equal distances. */
const everyNth = (places, most) => places.filter((n) => n % Math.ceil(places.length / most) === 0);

/** Labels at the top of a chart that have room beside each other; those at steps come first. */
function drawLabels(u, labels) {
  const { ctx } = u, ratio = uPlot.pxRatio, end = u.bbox.left + u.bbox.width, drawn = [];
  for (const { text, x } of labels.sort((a, b) => b.isStep - a.isStep)) {
    const { width } = ctx.measureText(text), left = Math.min(x, end - width);
    const room = width + 6 * ratio;
    if (drawn.some((other) => left < other.left + other.room && other.left < left + room)) continue;
    drawn.push({ left, room });
    ctx.fillText(text, left, u.bbox.top + 11 * ratio);
  }
}

/** A band at each step, a dashed line where torch changes, and a dotted one at accepted changes. */
function drawVersions(u, at, steps, torch, saved, accepted) {
  const { ctx } = u, ratio = uPlot.pxRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = cssColor("--muted");
  ctx.lineWidth = ratio;
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.globalAlpha = 0.25;
  for (const n of steps) {
    const x = u.valToPos(n - 1, "x", true);
    ctx.fillRect(x, u.bbox.top, u.valToPos(n, "x", true) - x, u.bbox.height);
  }
  ctx.globalAlpha = 1;
  const line = (n, dash) => {
    const x = u.valToPos(n - 0.5, "x", true);
    ctx.setLineDash(dash.map((length) => length * ratio));
    ctx.beginPath();
    ctx.moveTo(x, u.bbox.top);
    ctx.lineTo(x, u.bbox.top + u.bbox.height);
    ctx.stroke();
    return x;
  };
  const labels = [];
  at.forEach((run, n) => {
    if (n && torch[run] === torch[at[n - 1]]) return;
    const x = n ? line(n, [5, 4]) : u.valToPos(0, "x", true);
    labels.push({ text: torch[run].slice(0, 24), x: x + 3 * ratio, isStep: steps.includes(n) });
  });
  drawLabels(u, labels);
  for (const { since } of accepted) {
    const n = at.findIndex((run) => saved[run] >= since);
    if (n >= 0) line(n, [1, 3]);
  }
  ctx.restore();
}
