// Every cell in a table that can be sorted and searched, and downloaded as CSV.

const ROWS = 100;  // at first, and more with each click

/** The columns by name: a title, the value to sort by, and the text (default: the value). */
const TABLE = {
  mask: { title: "mask", of: (c, i) => c.mask[i] },
  backend: { title: "backend", of: (c, i) => c.backend[i] },
  direction: { title: "direction", of: (c, i) => c.direction[i] },
  s: { title: "S", of: (c, i) => c.s[i], text: (value) => value.toLocaleString("en-US") },
  ms: { title: "ms", of: (c, i) => c.device[i], text: (value) => short(value * 1e3) },
  interval: { title: "±", of: (c, i) => c.deviceInterval[i], text: (value) => percent(value, 2) },
  rounds: { title: "rounds", of: (c, i) => c.rounds[i] },
  tflops: {
    title: "TFLOP/s", of: (c, i) => (c.flops[i] && c.device[i] ? c.flops[i] / c.device[i] / 1e12 : null),
    text: short,
  },
  gbps: {
    title: "GB/s", of: (c, i) => (c.bytes[i] && c.device[i] ? c.bytes[i] / c.device[i] / 1e9 : null),
    text: short,
  },
  share: { title: "peak", of: (c, i) => c.share[i], text: (value) => percent(value) },
  error: {
    title: "error / bound", text: (value) => percent(value),
    of: (c, i) => (c.error[i] === null || !c.bound[i] ? null : c.error[i] / c.bound[i]),
  },
  memory: { title: "MiB", of: (c, i) => c.memory[i], text: (value) => short(value / 2 ** 20) },
  clock: { title: "MHz", of: (c, i) => c.clock[i], text: (value) => String(Math.round(value)) },
  note: {
    title: "flags, or why there is no time",
    of: (c, i) => (c.outcome[i] === "timed" ? c.flags[i] : `${c.outcome[i]}: ${c.reason[i]}`),
  },
};
const TEXT_COLUMNS = ["mask", "backend", "direction", "note"];

/** The columns of the CSV file: everything that the page knows, in base units. */
const CSV = {
  device: (app, i) => app.data.setups[app.cells.setup[i]].device,
  torch: (app, i) => app.data.setups[app.cells.setup[i]].torch,
  ...Object.fromEntries(Object.entries({
    fullname: "name", mask: "mask", backend: "backend", direction: "direction", seq_len: "s", q_len: "q",
    batch: "batch", heads: "heads", kv_heads: "kvHeads", head_dim: "headDim", v_head_dim: "vHeadDim",
    dtype: "dtype", outcome: "outcome", reason: "reason", form: "form", median_s: "device",
    interval: "deviceInterval", called_s: "called", graph_s: "graph", rounds: "rounds", host_us: "host",
    flops: "flops", bytes: "bytes", peak_share: "share", peak_limit: "limit", cycles: "cycles",
    cycles_interval: "cyclesInterval", error: "error", error_bound: "bound", error_of: "errorOf",
    peak_memory_bytes: "memory", clock_mhz: "clock", flags: "flags", density: "density",
  }).map(([title, name]) => [title, (app, i) => app.cells[name][i]])),
};

function cellsView(app) {
  const { state, cells } = app;
  let shown = ROWS;
  const [sortBy, sortDown] = [state.sort.replace(/^-/, ""), state.sort.startsWith("-")];
  const body = el("tbody", {}), count = el("p", { class: "note", role: "status" });
  const more = el("button", { type: "button" }, "");
  let rows = [];
  const fillRows = () => {
    body.replaceChildren(...rows.slice(0, shown).map((i) => cellRow(app, i)));
    const timed = rows.filter((i) => cells.device[i] !== null).length;
    count.textContent = `${rows.length.toLocaleString("en-US")} cells, ${timed.toLocaleString("en-US")} of them timed`;
    more.hidden = rows.length <= shown;
    more.textContent = `Show ${Math.min(ROWS, rows.length - shown)} more rows`;
  };
  const search = el("input", { type: "search", value: state.find, placeholder: "Search names, forms and reasons", "aria-label": "Search the cells" });
  const update = () => {
    rows = sortedRows(cells, matchingCells(app, search.value), sortBy, sortDown);
    fillRows();
  };
  search.addEventListener("input", () => {
    shown = ROWS;
    app.replaceAddress({ find: search.value });
    update();
  });
  more.addEventListener("click", () => {
    shown += ROWS;
    fillRows();
  });
  const head = Object.entries(TABLE).map(([name, { title }]) => {
    const isSorted = name === sortBy;
    const next = isSorted && !sortDown ? `-${name}` : isSorted ? "" : name;
    const button = el("button", { type: "button", "data-sort": name, click: () => app.navigate({ sort: next }) },
      title, el("span", { "aria-hidden": "true" }, isSorted ? (sortDown ? " ▼" : " ▲") : ""));
    return el("th", {
      scope: "col", class: TEXT_COLUMNS.includes(name) ? null : "number",
      "aria-sort": isSorted ? (sortDown ? "descending" : "ascending") : "none",
    }, button);
  });
  update();
  const download = el("button", { type: "button", click: () => downloadCsv(app, rows) }, "Download CSV");
  return {
    element: el("section", {},
      el("h2", { tabindex: "-1" }, "All cells"),
      el("div", { class: "tools" }, search, download, count),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All cells" },
        el("table", { class: "cells" }, el("thead", {}, el("tr", {}, head)), body)),
      more),
  };
}

function cellRow(app, i) {
  const { cells } = app;
  return el("tr", { "data-cell": i, tabindex: "0" }, Object.entries(TABLE).map(([name, { of, text }]) => {
    const value = of(cells, i);
    const content = value === null || value === "" ? "" : text ? text(value) : String(value);
    if (name === "backend") return el("td", {}, app.styles.swatch(value), content);
    return el("td", { class: TEXT_COLUMNS.includes(name) ? name : "number" }, content);
  }));
}

/** The cells of the group that pass the filters and contain each word of the search. */
function matchingCells(app, text) {
  const { cells, group } = app;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const passes = app.filter();
  return group.cells.filter((i) => {
    if (!passes(cells, i)) return false;
    if (!words.length) return true;
    const all = `${cells.name[i]} ${cells.form[i]} ${cells.outcome[i]} ${cells.reason[i]} ${cells.flags[i]}`.toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

/** Sorted by a column; cells without a value are last. */
function sortedRows(cells, rows, name, isDown) {
  if (!Object.hasOwn(TABLE, name)) return rows;
  const values = new Map(rows.map((i) => [i, TABLE[name].of(cells, i)]));
  const collator = new Intl.Collator("en", { numeric: true });
  const sign = isDown ? -1 : 1;
  return [...rows].sort((a, b) => {
    const x = values.get(a), y = values.get(b);
    if (x === null || y === null || x === "" || y === "") {
      return (x === null || x === "") - (y === null || y === "");
    }
    return sign * (typeof x === "string" ? collator.compare(x, y) : x - y);
  });
}

/** A field of CSV (RFC 4180). */
const csvField = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

function csvText(app, rows) {
  const lines = [Object.keys(CSV), ...rows.map((i) => Object.values(CSV).map((of) => of(app, i)))];
  return `${lines.map((line) => line.map(csvField).join(",")).join("\r\n")}\r\n`;
}

function downloadCsv(app, rows) {
  const url = URL.createObjectURL(new Blob([csvText(app, rows)], { type: "text/csv" }));
  el("a", { href: url, download: "maskbench.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  announce(`${rows.length} cells are in maskbench.csv`);
}
