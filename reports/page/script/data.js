// The data of the page, and an index of the cells by problem.

const DIRECTIONS = ["forward", "backward"];

/** A column of JSON as an array: texts are saved once, with the place of each row's. */
function column(saved) {
  return Array.isArray(saved) ? saved : saved.i.map((place) => saved.t[place]);
}

function columns(saved) {
  return Object.fromEntries(Object.entries(saved).map(([name, values]) => [name, column(values)]));
}

/** Read and decompress the data of the page. */
async function readData() {
  const packed = atob(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/**
 * The cells as columns, and their groups. The cells of a group can be ranked together: they have one
 * device, torch, shape and data type.
 */
class Cells {
  constructor(saved) {
    Object.assign(this, columns(saved));
    this.count = this.name.length;
    this.groups = new Map();
    for (let i = 0; i < this.count; i++) this.#add(i);
  }

  #add(i) {
    const key = JSON.stringify([this.setup[i], this.shape[i], this.dtype[i]]);
    if (!this.groups.has(key)) {
      const group = { setup: this.setup[i], shape: this.shape[i], dtype: this.dtype[i] };
      this.groups.set(key, { ...group, cells: [], timed: 0, masks: new Map(), lengths: new Set() });
    }
    const group = this.groups.get(key);
    group.cells.push(i);
    if (!DIRECTIONS.includes(this.direction[i])) return;
    group.lengths.add(this.s[i]);
    if (this.device[i] !== null) group.timed++;
    const problems = group.masks.get(this.mask[i]) ?? new Map();
    group.masks.set(this.mask[i], problems);
    const problem = `${this.direction[i]} ${this.s[i]}`;
    if (!problems.has(problem)) problems.set(problem, []);
    problems.get(problem).push(i);
  }

  /** The attention cells of one problem in a group. */
  ofProblem(group, mask, direction, s) {
    return group.masks.get(mask)?.get(`${direction} ${s}`) ?? [];
  }

  /** The group with these properties; else the one with the most times among the nearest. */
  group(setup, shape, dtype) {
    const score = (group) =>
      (group.shape === shape ? 4e9 : 0) + (group.dtype === dtype ? 2e9 : 0) + group.timed;
    const own = [...this.groups.values()].filter((group) => group.setup === setup);
    return own.reduce((best, group) => (score(group) > score(best) ? group : best));
  }

  /** The measures by which some cell has a time. */
  measures() {
    const found = ["device"];
    if (this.graph.some((seconds) => seconds !== null)) found.push("graph");
    if (this.called.some((seconds, i) => seconds !== this.device[i])) found.push("called");
    return found;
  }
}
