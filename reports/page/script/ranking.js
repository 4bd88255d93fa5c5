// Which backends are fastest, with ties: the rule of reports/ranking.py, for the backends that are shown.

/**
 * The timed cells of a problem, the fastest first.
 * @param {Cells} cells
 * @param {number[]} problem - cells of one problem
 * @param {?number} flexSeconds - the time of FlexAttention's default kernels
 * @param {string} by - "device", "graph" or "called"
 * @returns {{i: number, seconds: number, interval: number, isHostTime: boolean, isWinner: boolean,
 *   overFlex: ?number}[]} `isWinner`: the interval overlaps that of the fastest
 */
function rank(cells, problem, flexSeconds, by) {
  const times = cells[by], intervals = cells[`${by}Interval`], isHostTime = cells[`${by}IsHostTime`];
  const ranked = problem
    .filter((i) => times[i] !== null)
    .map((i) => ({ i, seconds: times[i], interval: intervals[i] ?? 0, isHostTime: !!isHostTime[i] }));
  ranked.sort((a, b) => a.seconds - b.seconds);
  if (!ranked.length) return ranked;
  const limit = ranked[0].seconds * (1 + ranked[0].interval);
  ranked.forEach((one, place) => {
    one.isWinner = place === 0 || one.seconds * (1 - one.interval) <= limit;
    one.overFlex = flexSeconds === null ? null : one.seconds / flexSeconds;
  });
  return ranked;
}
