// The filter bar. Its controls are made once, so that they keep the focus while they are used.

const ALL = "all";

/**
 * The filters by name: a label, the choices as [value, text], and the parts of the page that they
 * change. A filter with a single choice is hidden.
 */
const FILTERS = {
  setup: {
    label: "run", views: ["fastest", "mask", "cells"],
    choices: ({ data }) => data.setups.map((setup, i) => [String(i), setup.name]),
  },
  mask: {
    label: "mask", views: ["fastest", "mask", "cells", "changes", "trends"],
    choices: (app) => [["", ALL], ...app.maskNames().map((name) => [name, name])],
  },
  direction: {
    label: "direction", views: ["fastest", "mask", "cells", "changes", "trends"],
    choices: () => [["", "both"], ["forward", "forward"], ["backward", "backward"]],
  },
  s: {
    label: "S", views: ["fastest", "mask", "cells", "changes", "trends"],
    choices: (app) => [["", ALL], ...app.lengths().map((s) => [String(s), s.toLocaleString("en-US")])],
  },
  shape: {
    label: "shape", views: ["fastest", "mask", "cells"],
    choices: (app) => distinct(app.groupsOfSetup().map((group) => group.shape)).map((name) => [name, name]),
    value: (app) => app.group.shape,
  },
  dtype: {
    label: "dtype", views: ["fastest", "mask", "cells"],
    choices: (app) =>
      distinct(app.groupsOfSetup().filter((group) => group.shape === app.group.shape)
        .map((group) => group.dtype)).map((name) => [name, name]),
    value: (app) => app.group.dtype,
  },
  by: {
    label: "time", views: ["fastest", "mask"],
    choices: ({ cells }) => cells.measures().map((by) => [by, MEASURE_LABELS[by]]),
  },
  unit: {
    label: "unit", views: ["fastest", "mask"],
    choices: ({ cells }) => unitsOf(cells).map((name) => [name, UNITS[name].label]),
  },
};

const distinct = (values) => [...new Set(values)];

class Filters {
  constructor(app) {
    this.app = app;
    this.form = document.getElementById("filters");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.selects = Object.fromEntries(Object.keys(FILTERS).map((name) => [name, this.#select(name)]));
    this.boxes = new Map();
    this.summary = el("summary", {}, "");
    this.list = el("div", { class: "menu" });
    this.backends = el("details", { class: "backends" }, this.summary, this.list);
    this.#fillBackends();
    const labels = Object.entries(this.selects).map(([name, select]) =>
      el("label", { "data-filter": name }, el("span", {}, FILTERS[name].label), select));
    labels.splice(2, 0, this.backends);
    const reset = el("button", { type: "button", class: "reset", click: () => app.reset() }, "Reset");
    this.form.replaceChildren(...labels, reset);
    document.addEventListener("click", (event) => {
      if (!this.backends.contains(event.target)) this.backends.open = false;
    });
    this.backends.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.backends.open = false;
      this.summary.focus();
    });
  }

  #select(name) {
    const select = el("select", { id: `filter-${name}` });
    select.addEventListener("change", () => this.app.navigate({ [name]: select.value }));
    return select;
  }

  #fillBackends() {
    const { app } = this;
    const choose = (name, isOn) => {
      const shown = new Set(app.shownBackends());
      if (isOn) shown.add(name);
      else shown.delete(name);
      this.#show(app.backendNames.filter((one) => shown.has(one)));
    };
    for (const name of app.backendNames) {
      const box = el("input", { type: "checkbox" });
      box.addEventListener("change", () => choose(name, box.checked));
      this.boxes.set(name, box);
      this.list.append(el("label", {}, box, app.styles.swatch(name), name));
    }
    const all = el("button", { type: "button", click: () => this.#show(app.backendNames) }, "all");
    const none = el("button", { type: "button", click: () => this.#show([]) }, "none");
    this.list.prepend(el("div", { class: "choices" }, all, none));
  }

  #show(names) {
    const isAll = names.length === this.app.backendNames.length;
    this.app.navigate({ backend: isAll ? "" : names.length ? joinNames(names) : NO_BACKEND });
  }

  /** Show the state of the app. */
  update() {
    const { app } = this;
    for (const [name, filter] of Object.entries(FILTERS)) {
      const select = this.selects[name], choices = filter.choices(app);
      const key = JSON.stringify(choices);
      if (select.dataset.choices !== key) {
        select.replaceChildren(...choices.map(([value, text]) => el("option", { value }, text)));
        select.dataset.choices = key;
      }
      select.value = filter.value ? filter.value(app) : app.state[name];
      if (select.selectedIndex < 0) select.selectedIndex = 0;
      const label = select.parentElement;
      label.hidden = !filter.views.includes(app.view) || choices.length < 2;
      label.classList.toggle("set", app.state[name] !== DEFAULTS[name]);
    }
    const shown = new Set(app.shownBackends());
    for (const [name, box] of this.boxes) box.checked = shown.has(name);
    this.summary.textContent = app.state.backend === "" ? "backends: all"
      : `backends: ${shown.size} of ${app.backendNames.length}`;
    this.backends.classList.toggle("set", app.state.backend !== "");
    this.backends.hidden = app.view === "run" || !app.backendNames.length;
    this.form.hidden = app.view === "run";
  }
}
