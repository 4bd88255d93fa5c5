// What the runs were: the machine, the software, and where the time went.

function runView(app) {
  const { setups } = app.data;
  const parts = setups.map((setup) => el("div", {},
    el("h3", {}, setup.name),
    noteList(setup.notes),
    setup.runs.map(({ facts, seconds }) => el("div", { class: "run" },
      el("dl", { class: "facts" }, Object.entries(facts).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
      Object.keys(seconds).length ? stages(seconds) : null))));
  return { element: el("section", {}, el("h2", { tabindex: "-1" }, setups.length > 1 ? "The runs" : "The run"), parts) };
}

/** Where the wall time went, as bars. */
function stages(seconds) {
  const rows = Object.entries(seconds).filter(([name]) => name !== "total");
  const total = seconds.total ?? rows.reduce((sum, [, value]) => sum + value, 0);
  return el("table", { class: "stages" },
    el("caption", {}, `Where the time went: ${short(total)} s`),
    el("tbody", {}, rows.map(([name, value]) => el("tr", {},
      el("th", { scope: "row" }, name),
      el("td", { class: "bar" }, bar(cssColor("--accent"), value, 0, total)),
      el("td", { class: "number" }, `${short(value)} s`)))));
}
