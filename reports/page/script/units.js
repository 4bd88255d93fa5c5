// The units of a time, and numbers as text.

/**
 * Units by name. `of` is the value of a ranked cell, null where it is unknown; `isLargerBetter` is
 * whether a larger value is better.
 */
const UNITS = {
  ms: { label: "ms", title: "time (ms)", of: (c, one) => one.seconds * 1e3 },
  tflops: {
    label: "TFLOP/s", title: "TFLOP/s", isLargerBetter: true,
    of: (c, one) => (c.flops[one.i] ? c.flops[one.i] / one.seconds / 1e12 : null),
  },
  share: {
    label: "% of peak", title: "share of the peak (%)", isLargerBetter: true,
    of: (c, one) =>
      c.share[one.i] === null ? null : (100 * c.share[one.i] * c.device[one.i]) / one.seconds,
  },
  cycles: {
    label: "kcycles", title: "SM cycles (thousands)",
    of: (c, one) =>
      c.cycles[one.i] === null || one.seconds !== c.device[one.i] ? null : c.cycles[one.i] / 1e3,
  },
  gbps: {
    label: "GB/s", title: "GB/s", isLargerBetter: true,
    of: (c, one) => (c.bytes[one.i] ? c.bytes[one.i] / one.seconds / 1e9 : null),
  },
  flex: { label: "× flex", title: "time / FlexAttention's", of: (c, one) => one.overFlex },
};
/** The units that a run has values in: older ones lack fields. */
function unitsOf(cells) {
  const has = (values) => values.some((value) => value > 0);
  const needs = { tflops: cells.flops, share: cells.share, cycles: cells.cycles, gbps: cells.bytes };
  return Object.keys(UNITS).filter((name) => !needs[name] || has(needs[name]));
}

const MEASURE_LABELS = { device: "on the device", graph: "with CUDA graphs", called: "as called from Python" };
const FLAGS = { "host-bound": "†", throttled: "‡" };

/** Three significant digits: 0.0373, 2.07, 1,304. */
function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en-US");
  return value === 0 ? "0" : value.toPrecision(3);
}

function percent(share, digits = 0) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;
}

function signedPercent(share) {
  return share === null ? "–" : `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)} %`;
}

/** The marks of a time that needs care: † host-bound, ‡ throttled. */
function marksOf(flags) {
  return Object.entries(FLAGS).filter(([flag]) => flags.includes(flag)).map(([, mark]) => mark).join("");
}

/** A value in a unit: "~" before a noisy time, marks after it. */
function valueText(cells, one, unit) {
  const value = UNITS[unit].of(cells, one);
  if (value === null) return "–";
  const noisy = cells.noisy[one.i] && !one.isHostTime ? "~" : "";
  return `${noisy}${short(value)}${marksOf(cells.flags[one.i])}`;
}

/** A name with room for line breaks after each "_". */
function breakable(name) {
  return name.split("_").flatMap((part, i) => (i ? ["_", el("wbr"), part] : [part]));
}

/** The name of a backend, which only breaks if it is long. */
function backendName(name) {
  return name.length <= 20 ? name : breakable(name);
}
