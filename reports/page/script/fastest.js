// The first view: for each mask, direction and length the fastest exact backend, with ties.

const MAX_MASKS = 200;  // rows at first
const MAX_TIED = 3;  // names in an entry

function fastestView(app) {
  const { cells, group, state } = app;
  const directions = state.direction ? [state.direction] : DIRECTIONS;
  const lengths = app.shownLengths();
  const masks = [...group.masks.keys()];
  const title = el("h2", { tabindex: "-1" }, `Fastest exact backend ${MEASURE_LABELS[state.by]}`);
  if (!masks.length) {
    const text = `This run has no forward or backward cell with ${group.shape} ${group.dtype}. What it has is in `;
    const link = el("a", { href: app.link({ view: "cells" }) }, VIEWS.cells.label);
    return { element: el("section", {}, title, el("p", {}, text, link, ".")) };
  }
  const seen = new Set();
  const row = (mask) => {
    const head = el("th", { scope: "row" },
      el("a", { href: app.link({ mask }) }, breakable(mask)));
    const entries = directions.flatMap((direction) =>
      lengths.map((s, place) => winnerEntry(app, mask, direction, s, place === 0, seen)));
    return el("tr", {}, head, entries);
  };
  const body = el("tbody", {}, masks.slice(0, MAX_MASKS).map(row));
  const table = el("table", { class: "fastest" },
    el("thead", {},
      el("tr", {}, el("th", { rowspan: 2, scope: "col" }, "mask"),
        directions.map((name) => el("th", { colspan: lengths.length, scope: "colgroup", class: "group" }, name))),
      el("tr", {}, directions.flatMap(() =>
        lengths.map((s, place) =>
          el("th", { scope: "col", class: place ? null : "group" }, `S = ${s.toLocaleString("en-US")}`))))),
    body);
  const more = masks.length > MAX_MASKS
    ? el("button", { type: "button", click: (event) => {
      body.append(...masks.slice(MAX_MASKS).map(row));
      event.target.remove();
    } }, `Show ${masks.length - MAX_MASKS} more masks`)
    : null;
  const marks = [
    el("b", {}, "="), " tied: 95 % intervals overlap. ", el("b", {}, "×"), " of FlexAttention's time. ",
    seen.has("~") ? [el("b", {}, "~"), " noisy. "] : null,
    seen.has("†") ? [el("b", {}, "†"), " host-bound: launching takes longer than computing. "] : null,
    seen.has("‡") ? [el("b", {}, "‡"), " clock was limited. "] : null,
    "Select an entry to see all backends, and why one is missing.",
  ];
  return {
    element: el("section", {},
      title,
      el("p", { class: "note" }, `${UNITS[state.unit].title}. `, marks),
      app.notes(),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Fastest backends" }, table),
      more),
  };
}

/** One entry of the table: the fastest backends, their value, and its time over FlexAttention's. */
function winnerEntry(app, mask, direction, s, isFirst, seen) {
  const { cells, state } = app;
  const problem = app.problem(mask, direction, s);
  const ranked = app.ranked(mask, direction, s);
  const place = isFirst ? "group" : null;
  const href = app.link({ mask, direction, s: String(s) });
  if (!ranked.length) {
    const text = problem.length ? "none timed" : "–";
    const shown = problem.length ? el("a", { href, class: "entry none" }, text) : text;
    return el("td", { class: place }, shown);
  }
  const tied = ranked.filter((one) => one.isWinner);
  const names = tied.slice(0, MAX_TIED).map((one, n) => {
    const name = cells.backend[one.i];
    return el("span", { class: "winner" }, n ? "= " : null, app.styles.swatch(name), backendName(name));
  });
  if (tied.length > MAX_TIED) names.push(el("span", { class: "winner" }, `= ${tied.length - MAX_TIED} more`));
  const value = valueText(cells, tied[0], state.unit);
  for (const mark of value) seen.add(mark);
  const ratio = state.unit !== "flex" && cells.backend[tied[0].i] !== "flex" && tied[0].overFlex !== null
    ? el("span", { class: "ratio" }, `${tied[0].overFlex.toFixed(2)}×`) : null;
  return el("td", { class: place },
    el("a", { href, class: "entry", "data-cell": tied[0].i },
      el("span", { class: "winners" }, names),
      el("span", { class: "value" }, value, state.unit === "flex" ? "×" : ` ${unitMark(state.unit)}`), ratio));
}

/** The unit beside a number, as short as it can be. */
const unitMark = (unit) => ({ ms: "ms", tflops: "TF/s", share: "%", cycles: "kcyc", gbps: "GB/s" })[unit];
