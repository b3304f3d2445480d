// The density of a Beta distribution: how likely each chance of success is, given what was seen.

import { h, s } from './element.js';

const POINTS = 240;
const WIDTH = 400;
const HEIGHT = 68;
const FOOT = 2;

/** Heights at `POINTS` chances from 0 to 1, the greatest being 1. In logarithms, because a and b may be large. */
export function heights(a, b) {
  const logs = Array.from({ length: POINTS }, (_, index) => {
    const chance = (index + 0.5) / POINTS;
    return (a - 1) * Math.log(chance) + (b - 1) * Math.log(1 - chance);
  });
  const most = Math.max(...logs);
  return logs.map((log) => Math.exp(log - most));
}

/** A curve that `update(a, b)` draws. */
export function densityCurve(kind) {
  const x = (index) => ((index + 0.5) / POINTS) * WIDTH;
  const y = (height) => 6 + (HEIGHT - FOOT - 6) * (1 - height);
  const curve = s('path', { class: `density ${kind}` });
  const mean = s('line', { class: 'mean', y1: 2, y2: HEIGHT - FOOT });
  const svg = s(
    'svg',
    {
      class: 'curve',
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      height: HEIGHT,
      preserveAspectRatio: 'none',
      role: 'img',
    },
    s('line', { class: 'axis', x1: 0, x2: WIDTH, y1: HEIGHT - FOOT, y2: HEIGHT - FOOT }),
    curve,
    mean,
  );
  // Beside the drawing, which is as wide as its card, and text is not.
  const ticks = h(
    'p',
    { class: 'ticks muted', 'aria-hidden': 'true' },
    ['0 %', '25 %', '50 %', '75 %', '100 %'].map((text) => h('span', {}, text)),
  );
  let drawn = '';
  const update = (a, b) => {
    // Nobody sees more digits, and a curve costs more than all else on the page.
    const key = `${a.toFixed(1)} ${b.toFixed(1)}`;
    if (key === drawn) return;
    drawn = key;
    const points = heights(a, b).map(
      (height, index) => `${x(index).toFixed(1)} ${y(height).toFixed(1)}`,
    );
    curve.setAttribute('d', `M0 ${y(0)}L${points.join('L')}L${WIDTH} ${y(0)}Z`);
    const at = ((a / (a + b)) * WIDTH).toFixed(1);
    mean.setAttribute('x1', at);
    mean.setAttribute('x2', at);
    svg.setAttribute(
      'aria-label',
      `Beta distribution with ${a.toFixed(1)} successes and ${b.toFixed(1)} failures: the chance that a payment is charged is most likely ${((a / (a + b)) * 100).toFixed(1)} %`,
    );
  };
  return { element: h('div', {}, svg, ticks), update };
}
