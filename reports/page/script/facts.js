// All that was saved of one cell, in words: for the tip, the table and the command.

/** The facts of a cell as pairs of name and text. */
function factsOf(cells, i) {
  const facts = [["S", cells.s[i].toLocaleString("en-US")], ["shape", `${cells.shape[i]} ${cells.dtype[i]}`]];
  const add = (name, text) => text && facts.push([name, text]);
  if (cells.form[i]) add("form", cells.form[i]);
  if (cells.outcome[i] !== "timed") {
    add(cells.outcome[i], cells.reason[i]);
    return facts;
  }
  add("median", `${short(cells.device[i] * 1e3)} ms ± ${percent(cells.deviceInterval[i], 2)} (95 %)`);
  if (cells.called[i] !== cells.device[i]) add("as called", `${short(cells.called[i] * 1e3)} ms`);
  if (cells.graph[i] !== null) add("CUDA graph", `${short(cells.graph[i] * 1e3)} ms`);
  add("no CUDA graph", cells.graphReason[i]);
  add("rounds", cells.rounds[i]);
  if (cells.host[i] !== null) add("host time", `${short(cells.host[i] / 1e3)} ms`);
  if (cells.flops[i]) add("TFLOP/s", short(cells.flops[i] / cells.device[i] / 1e12));
  if (cells.bytes[i]) add("GB/s", short(cells.bytes[i] / cells.device[i] / 1e9));
  if (cells.share[i] !== null) add("peak", `${percent(cells.share[i])} of ${cells.limit[i]}`);
  if (cells.cycles[i] !== null) {
    add("SM cycles", `${short(cells.cycles[i])} ± ${percent(cells.cyclesInterval[i], 2)}`);
  }
  if (cells.clock[i] !== null) add("SM clock", `${Math.round(cells.clock[i])} MHz`);
  if (cells.error[i] !== null) {
    const of = cells.errorOf[i] ? ` of ${cells.errorOf[i]}` : "";
    const bound = cells.bound[i] === null ? "" : `, bound ${short(cells.bound[i])}`;
    add("error", `${cells.error[i].toPrecision(3)}${of}${bound.replace("–", "0")}`);
  }
  add("errors, bounds", cells.errors[i]);
  add("checked", cells.checked[i]);
  add("soak", cells.soak[i]);
  if (cells.memory[i] !== null) add("peak memory", `${short(cells.memory[i] / 2 ** 20)} MiB`);
  add("flags", cells.flags[i]);
  return facts;
}

const NARROW = 760;  // pixels of the window, as in page.css

/**
 * The tip: it follows the pointer and the focus, and Escape closes it. In a narrow window, where it
 * is as wide as the table, it is at the far edge of the window and leaves the next rows visible.
 */
class Tip {
  constructor(cells) {
    this.cells = cells;
    this.element = document.getElementById("tip");
    const show = (event) => {
      const target = event.target instanceof Element ? event.target.closest("[data-cell]") : null;
      if (target) this.show(Number(target.dataset.cell), target.getBoundingClientRect(), target);
      else this.hide();
    };
    document.addEventListener("mouseover", show);
    document.addEventListener("focusin", show);
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    document.addEventListener("scroll", () => this.hide(), { passive: true, capture: true });
  }

  show(i, box, target = null) {
    this.target?.removeAttribute("aria-describedby");
    this.target = target;
    target?.setAttribute("aria-describedby", "tip");
    const { cells } = this;
    const rows = factsOf(cells, i).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]);
    const title = `${cells.mask[i]}, ${cells.backend[i]}, ${cells.direction[i]}`;
    this.element.replaceChildren(el("strong", {}, title), el("dl", {}, rows));
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const roomBelow = innerHeight - box.bottom;
    const below = innerWidth > NARROW ? box.bottom + 6 : innerHeight - height - 4;
    const above = innerWidth > NARROW ? Math.max(4, box.top - height - 6) : 4;
    const isBelow = innerWidth > NARROW ? height + 6 < roomBelow : roomBelow >= box.top;
    const top = isBelow ? below : above;
    const left = Math.min(Math.max(4, box.left), Math.max(4, innerWidth - width - 4));
    this.element.style.top = `${top}px`;
    this.element.style.left = `${left}px`;
  }

  hide() {
    this.target?.removeAttribute("aria-describedby");
    this.target = null;
    this.element.hidden = true;
  }
}

/** A text as one word of a POSIX shell. */
const quoted = (text) =>
  /^[\w.,:=+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/** The command that times a cell again; null for a mask that is not in the catalogue. */
function commandOf(cells, i, isKnownMask) {
  if (!isKnownMask || !DIRECTIONS.includes(cells.direction[i])) return null;
  const options = {
    masks: cells.mask[i], backends: cells.backend[i], "seq-lens": cells.s[i],
    "q-lens": cells.q[i] === cells.s[i] ? null : cells.q[i],
    batch: cells.batch[i], heads: cells.heads[i], "kv-heads": cells.kvHeads[i],
    "head-dim": cells.headDim[i],
    "v-head-dim": cells.vHeadDim[i] === cells.headDim[i] ? null : cells.vHeadDim[i],
    dtype: cells.dtype[i],
  };
  const given = Object.entries(options)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `--${name}=${quoted(String(value))}`);
  return `python -m pytest tests/test_${cells.direction[i]}.py --benchmark-only ${given.join(" ")}`;
}
