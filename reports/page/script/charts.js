// Charts with uPlot: lines with markers and error bars, on logarithmic axes.

const openCharts = [];

/** Remove the charts of the part that was shown before. */
function closeCharts() {
  for (const { chart, observer } of openCharts.splice(0)) {
    observer.disconnect();
    chart.destroy();
  }
}

const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Draw a chart into an element that is in the page.
 * @param {HTMLElement} host
 * @param {object} options
 * @param {number[]} options.x
 * @param {{label: string, color: string, outline: ?string, y: (?number)[], half: (?number)[],
 *   dash: ?number[], width: ?number}[]} options.lines - `half` is the half-width of each error bar
 * @param {boolean} options.isLogX
 * @param {boolean} options.isLogY
 * @param {string} options.yTitle
 * @param {function(number): string} options.xText
 * @param {function(uPlot)} [options.behind] - draws below the lines
 * @param {function(number, number, {left: number, top: number})} options.onPoint - shows the point
 *   of a line at a place of x; gets -1, -1 if there is none
 */
function drawChart(host, options) {
  const grid = { stroke: cssColor("--line"), width: 1 };
  const axis = { stroke: cssColor("--muted"), font: "11px system-ui, sans-serif", grid, ticks: grid };
  const y = options.lines.flatMap((line) => line.y.filter((value) => value !== null));
  const chart = new uPlot(
    {
      width: Math.max(host.clientWidth, 200),
      height: options.height ?? 250,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { show: false }, x: false, y: false },
      scales: {
        x: { time: false, distr: options.isLogX ? 3 : 1, log: 2, range: () => xRange(options) },
        y: { distr: options.isLogY ? 3 : 1, log: 10, range: () => yRange(y, options.isLogY) },
      },
      axes: [
        { ...axis, splits: () => options.ticks, values: (u, at) => at.map(options.xText), size: 34 },
        {
          ...axis, size: 56, label: options.yTitle, labelSize: 16, labelFont: axis.font,
          ...(options.isLogY && { splits: () => logTicks(Math.min(...y), Math.max(...y)), filter: (u, at) => at }),
          values: (u, at) => at.map((value) => String(Number(value.toPrecision(3)))),
        },
      ],
      series: [
        {},
        ...options.lines.map((line) => ({
          label: line.label, stroke: line.color, width: line.width ?? 1.5, dash: line.dash ?? undefined,
          spanGaps: true, points: { show: false },
        })),
      ],
      hooks: {
        drawClear: options.behind ? [options.behind] : [],
        draw: [(u) => drawPoints(u, options.lines)],
        setCursor: [(u) => nearestPoint(u, options)],
      },
    },
    [options.x, ...options.lines.map((line) => line.y)],
    host,
  );
  const observer = new ResizeObserver(() => {
    if (host.clientWidth && host.clientWidth !== chart.width) {
      chart.setSize({ width: host.clientWidth, height: chart.height });
    }
  });
  observer.observe(host);
  openCharts.push({ chart, observer });
}

function xRange({ x, isLogX }) {
  const first = x[0], last = x[x.length - 1];
  if (isLogX) return [first / 1.15, last * 1.15];
  const room = Math.max((last - first) * 0.02, 0.5);
  return [first - room, last + room];
}

function yRange(values, isLog) {
  const lowest = Math.min(...values), highest = Math.max(...values);
  if (isLog) return [lowest / 1.25, highest * 1.25];
  return [0, highest * 1.08 || 1];
}

/** Ticks at powers of ten, or at 1, 2 and 5 times them; within a small range at equal steps. */
function logTicks(lowest, highest) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(lowest / 1.25)); 10 ** power <= highest * 1.25; power++) {
    for (const digit of [1, 2, 5]) ticks.push(Number(`${digit}e${power}`));
  }
  const inside = ticks.filter((tick) => tick >= lowest / 1.25 && tick <= highest * 1.25);
  if (inside.length > 8) return inside.filter((tick) => /^1/.test(tick.toExponential()));
  if (inside.length > 2) return inside;
  const room = (highest * 1.25 - lowest / 1.25) / 4, power = 10 ** Math.floor(Math.log10(room));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= room);
  const first = Math.ceil(lowest / 1.25 / step);
  return Array.from({ length: 5 }, (_, n) => (first + n) * step).filter((tick) => tick <= highest * 1.25);
}

/** Error bars, and markers where a line has an outline of one. */
function drawPoints(u, lines) {
  const { ctx } = u, ratio = uPlot.pxRatio;
  ctx.save();
  lines.forEach((line, n) => {
    ctx.strokeStyle = ctx.fillStyle = line.color;
    ctx.lineWidth = ratio;
    const marker = line.outline ? new Path2D(line.outline) : null;
    line.y.forEach((value, place) => {
      if (value === null) return;
      const x = u.valToPos(u.data[0][place], "x", true);
      const half = line.half?.[place];
      if (half) {
        const top = u.valToPos(value + half, "y", true);
        const bottom = u.valToPos(Math.max(value - half, u.scales.y.min), "y", true);
        ctx.beginPath();
        ctx.moveTo(x, top);
        ctx.lineTo(x, bottom);
        for (const end of [top, bottom]) {
          ctx.moveTo(x - 3 * ratio, end);
          ctx.lineTo(x + 3 * ratio, end);
        }
        ctx.stroke();
      }
      if (!marker) return;
      ctx.save();
      ctx.translate(x, u.valToPos(value, "y", true));
      ctx.scale(ratio * 0.9, ratio * 0.9);
      ctx.fill(marker);
      ctx.strokeStyle = cssColor("--back");
      ctx.lineWidth = 0.8;
      ctx.stroke(marker);
      ctx.restore();
    });
  });
  ctx.restore();
}

/** Report the point that is nearest to the pointer, within 24 pixels. */
function nearestPoint(u, { lines, onPoint }) {
  const { left, top } = u.cursor;
  let best = { distance: 24, line: -1, place: -1 };
  if (left >= 0) {
    lines.forEach((line, n) => {
      line.y.forEach((value, place) => {
        if (value === null) return;
        const x = u.valToPos(u.data[0][place], "x"), y = u.valToPos(value, "y");
        const distance = Math.hypot(x - left, y - top);
        if (distance < best.distance) best = { distance, line: n, place, x, y };
      });
    });
  }
  const box = u.over.getBoundingClientRect();
  onPoint(best.line, best.place, {
    left: box.left + (best.x ?? 0), bottom: box.top + (best.y ?? 0) + 6, top: box.top + (best.y ?? 0) - 6,
  });
}
