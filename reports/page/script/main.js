// Connects the data, the address, the filters and the parts of the page.

const NO_BACKEND = "-";  // in the address: every backend is switched off
const VIEWS = {
  fastest: { label: "Fastest", show: fastestView },
  mask: { show: maskView },
  cells: { label: "All cells", show: cellsView },
  changes: { label: "Comparison", show: changesView, has: (data) => data.comparison },
  trends: { label: "Trends", show: trendsView, has: (data) => data.trends },
  run: { label: "The run", show: runView },
};

class App {
  constructor(data) {
    this.data = data;
    this.cells = new Cells(data.cells);
    this.styles = new Styles(data.backends);
    this.backendNames = data.backends.map(({ name }) => name);
    this.tip = new Tip(this.cells);
    this.state = { ...DEFAULTS };
    this.readAddress();
    this.filters = new Filters(this);
    addEventListener("hashchange", () => this.show());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
    this.show();
  }

  /** Read the address: the state, the part that is shown, and the group of cells. */
  readAddress() {
    const state = parseState(location.hash);
    if (!this.data.setups[state.setup]) state.setup = DEFAULTS.setup;
    if (!unitsOf(this.cells).includes(state.unit)) state.unit = DEFAULTS.unit;
    if (!this.cells.measures().includes(state.by)) state.by = DEFAULTS.by;
    if (!DIRECTIONS.includes(state.direction)) state.direction = "";
    const known = Object.hasOwn(VIEWS, state.view) && VIEWS[state.view].label;
    if (!known || (VIEWS[state.view].has && !VIEWS[state.view].has(this.data))) state.view = "";
    this.state = state;
    this.group = this.cells.group(Number(state.setup), state.shape, state.dtype);
    this.view = state.view && state.view !== "fastest" ? state.view : state.mask ? "mask" : "fastest";
  }

  show() {
    const before = `${this.view} ${this.state.mask}`;
    this.readAddress();
    closeCharts();
    this.tip.hide();
    this.#header();
    this.filters.update();
    const focused = document.activeElement?.dataset?.sort;
    const part = VIEWS[this.view].show(this);
    const main = document.getElementById("main");
    main.replaceChildren(part.element);
    part.draw?.();
    if (this.isShown && before !== `${this.view} ${this.state.mask}`) {
      scrollTo(0, 0);
      main.querySelector("h2").focus({ preventScroll: true });
    } else if (focused) {
      main.querySelector(`[data-sort="${focused}"]`)?.focus();
    }
    this.isShown = true;
  }

  #header() {
    const setup = this.data.setups[this.state.setup];
    const { shape, dtype } = this.group;
    const text = `${setup.device} · torch ${setup.torch} · ${shape} ${dtype} · ${setup.runs[0].facts.saved}`;
    document.getElementById("setup").textContent = text;
    const links = Object.entries(VIEWS)
      .filter(([, view]) => view.label && (!view.has || view.has(this.data)))
      .map(([name, view]) => {
        const isHere = name === this.view || (name === "fastest" && this.view === "mask");
        const to = name === "fastest" ? { view: "", mask: "", s: "", direction: "" } : { view: name };
        return el("a", { href: this.link(to), "aria-current": isHere ? "page" : null }, view.label);
      });
    document.getElementById("views").replaceChildren(...links);
  }

  link(change) {
    return hashOf({ ...this.state, ...change });
  }

  /** Go to another state at once, with an entry in the history. */
  navigate(change) {
    history.pushState(null, "", this.link(change));
    this.show();
  }

  /** Change the address without a new entry in the history. */
  replaceAddress(change) {
    Object.assign(this.state, change);
    history.replaceState(null, "", this.link({}) || "#");
  }

  reset() {
    this.navigate({ ...DEFAULTS, view: this.state.view, setup: this.state.setup });
  }

  shownBackends() {
    const { backend } = this.state;
    if (backend === "") return this.backendNames;
    const names = new Set(splitNames(backend));
    return this.backendNames.filter((name) => names.has(name));
  }

  groupsOfSetup() {
    return [...this.cells.groups.values()].filter((group) => group.setup === this.group.setup);
  }

  maskNames() {
    if (this.view === "changes") return distinct(column(this.data.comparison.cells.mask));
    if (this.view === "trends") return distinct(column(this.data.trends.cells.mask));
    return distinct(this.group.cells.map((i) => this.cells.mask[i]));
  }

  lengths() {
    const increasing = (values) => distinct(values).sort((a, b) => a - b);
    if (this.view === "changes") return increasing(this.data.comparison.cells.s);
    if (this.view === "trends") return increasing(this.data.trends.cells.s);
    return increasing(this.group.lengths);
  }

  shownLengths() {
    const { s } = this.state, all = this.lengths();
    return all.includes(Number(s)) ? [Number(s)] : all;
  }

  lengthsOf(mask) {
    const problems = this.group.masks.get(mask) ?? new Map();
    return distinct([...problems.keys()].map((key) => Number(key.split(" ")[1]))).sort((a, b) => a - b);
  }

  /** The attention cells of a problem, of the backends that are shown. */
  problem(mask, direction, s) {
    const all = this.cells.ofProblem(this.group, mask, direction, s);
    if (this.state.backend === "") return all;
    const shown = new Set(this.shownBackends());
    return all.filter((i) => shown.has(this.cells.backend[i]));
  }

  /** The timed cells of a problem, the fastest first; of the backends that are shown. */
  ranked(mask, direction, s) {
    const { cells, state } = this, times = cells[state.by];
    const flex = cells.ofProblem(this.group, mask, direction, s)
      .find((i) => cells.backend[i] === "flex" && times[i] !== null);
    const seconds = flex === undefined ? null : times[flex];
    return rank(cells, this.problem(mask, direction, s), seconds, state.by);
  }

  /** Whether a row of a table with columns passes the filters. */
  filter() {
    const { mask, direction, s, backend } = this.state;
    const shown = new Set(this.shownBackends());
    return (rows, i) =>
      (mask === "" || rows.mask[i] === mask) &&
      (direction === "" || rows.direction[i] === direction) &&
      (s === "" || String(rows.s[i]) === s) &&
      (backend === "" || shown.has(rows.backend[i]));
  }

  notes() {
    const { notes } = this.data.setups[this.state.setup];
    return notes.length ? el("p", { class: "note" }, el("b", {}, "Note: "), notes.join("; ")) : null;
  }
}

readData().then((data) => new App(data)).catch((error) => {
  document.getElementById("main").replaceChildren(
    el("p", { role: "alert" }, `This page cannot be shown: ${error}. It needs a browser of 2023 or newer.`));
  throw error;
});
