// Two runs side by side, the largest change first.

const MAX_CHANGES = 200;

function changesView(app) {
  const { comparison } = app.data;
  const title = el("h2", { tabindex: "-1" }, "Comparison");
  if (comparison.problem) return { element: el("section", {}, title, el("p", {}, comparison.problem)) };
  const rows = columns(comparison.cells);
  const passes = app.filter();
  const shown = rows.name.map((_, i) => i).filter((i) => passes(rows, i));
  const largest = Math.max(0.01, ...shown.map((i) => Math.abs(rows.change[i] ?? 0)));
  const row = (i) => el("tr", {},
    el("td", { class: "status" }, rows.status[i]),
    el("th", { scope: "row" }, el("a", { href: app.link({ view: "", mask: rows.mask[i], s: String(rows.s[i]), direction: rows.direction[i] }) }, breakable(rows.mask[i]))),
    el("td", { class: "name" }, app.styles.swatch(rows.backend[i]), backendName(rows.backend[i])),
    el("td", { class: "name" }, rows.direction[i]),
    el("td", { class: "number" }, rows.s[i].toLocaleString("en-US")),
    el("td", { class: "number" }, rows.before[i] === null ? "–" : short(rows.before[i] * 1e3)),
    el("td", { class: "number" }, rows.after[i] === null ? "–" : short(rows.after[i] * 1e3)),
    el("td", { class: "number" }, signedPercent(rows.change[i])),
    el("td", { class: "bar" }, changeBar(rows.change[i], rows.half[i], largest)),
    el("td", { class: "number" }, signedPercent(rows.changeSeconds[i])),
    el("td", { class: "note" }, rows.reason[i]));
  const titles = ["status", "mask", "backend", "direction", "S", "before, ms", "after, ms", "change", "faster │ slower", "in seconds", "reason"];
  const more = shown.length > MAX_CHANGES
    ? el("p", { class: "note" }, `The ${shown.length - MAX_CHANGES} smallest changes are not shown; the filters choose others.`) : null;
  return {
    element: el("section", {},
      title,
      el("p", {}, `${comparison.base} → ${comparison.new}: ${comparison.conclusion}. `,
        "Changes are at one SM clock, where the clock is known."),
      noteList(comparison.notes),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Changes" },
        el("table", {}, el("thead", {}, el("tr", {}, headCells(titles))),
          el("tbody", {}, shown.slice(0, MAX_CHANGES).map(row)))),
      more),
  };
}

const NUMBER_TITLES = ["S", "before, ms", "after, ms", "last, ms", "change", "in seconds", "noise", "runs"];

/** The headings of a table; those of numbers are aligned at the right, as the numbers are. */
const headCells = (titles) => titles.map((title) =>
  el("th", { scope: "col", class: NUMBER_TITLES.includes(title) ? "number" : null }, title));

/** A bar to the left if it is faster, to the right if slower, with its interval. */
function changeBar(change, half, largest) {
  if (change === null) return null;
  const scale = (share) => (50 * Math.min(Math.abs(share), largest)) / largest;
  const length = scale(change), start = change < 0 ? 50 - length : 50;
  const center = change < 0 ? 50 - length : 50 + length, width = half === null ? 0 : scale(half);
  return svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: `M${start} 1h${length}v8h${-length}z`, class: change < 0 ? "faster" : "slower" }),
    svg("path", { d: "M50 0v10", class: "whisker" }),
    width ? svg("path", { d: `M${center - width} 5h${2 * width}`, class: "whisker" }) : null);
}

function noteList(notes) {
  return notes.length ? el("ul", { class: "notes" }, notes.map((note) => el("li", {}, note))) : null;
}
