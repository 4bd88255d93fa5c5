// The color and the marker of each backend, the same as in the pictures of `reports plots`.

// Outlines in a box from -5 to 5, by the names of matplotlib's markers.
const MARKERS = {
  o: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
  s: "M-3.6-3.6h7.2v7.2h-7.2z",
  "^": "M0-4.4L4.4 3.6h-8.8z",
  v: "M0 4.4L4.4-3.6h-8.8z",
  "<": "M-4.4 0L3.6-4.4v8.8z",
  ">": "M4.4 0L-3.6-4.4v8.8z",
  D: "M0-4.8L4.8 0L0 4.8L-4.8 0z",
  P: "M-1.6-4.4h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2v-2.8h-2.8v-3.2h2.8z",
  X: "M-4.4-2.4L-2.4-4.4L0-2L2.4-4.4L4.4-2.4L2 0L4.4 2.4L2.4 4.4L0 2L-2.4 4.4L-4.4 2.4L-2 0z",
  "*": "M0-5L1.3-1.6L4.9-1.5L2.1.7L3 4.2L0 2.2L-3 4.2L-2.1.7L-4.9-1.5L-1.3-1.6z",
  h: "M0-4.6L4-2.3v4.6L0 4.6L-4 2.3v-4.6z",
  8: "M-1.8-4.4h3.6L4.4-1.8v3.6L1.8 4.4h-3.6L-4.4 1.8v-3.6z",
  d: "M0-5L3 0L0 5L-3 0z",
  p: "M0-4.6L4.4-1.4L2.7 3.8h-5.4L-4.4-1.4z",
};
const OTHER_MARKER = "M-4-1h8v2h-8z";
const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

class Styles {
  /** @param {{name: string, color: string, marker: string}[]} backends - in their order */
  constructor(backends) {
    this.order = new Map(backends.map(({ name }, place) => [name, place]));
    this.styles = new Map(backends.map((backend) => [backend.name, backend]));
  }

  /** The color on the background of the page: greys are inverted on a dark one. */
  color(name) {
    const color = this.styles.get(name)?.color ?? "#999999";
    const grey = /^#(..)\1\1$/.exec(color);
    if (!isDark() || !grey) return color;
    const level = Math.round(245 - 0.6 * parseInt(grey[1], 16));
    return `rgb(${level}, ${level}, ${level})`;
  }

  outline(name) {
    return MARKERS[this.styles.get(name)?.marker] ?? OTHER_MARKER;
  }

  /** The marker of a backend in its color. */
  swatch(name) {
    const attributes = { d: this.outline(name), fill: this.color(name), class: "marker" };
    return svg("svg", { viewBox: "-6 -6 12 12", class: "swatch", "aria-hidden": "true" },
      svg("path", attributes));
  }

  sorted(names) {
    return [...names].sort((a, b) => this.order.get(a) - this.order.get(b));
  }
}
