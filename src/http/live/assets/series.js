// What tells the series of charts apart: a hue, and for whoever does not see it a hatch or a dash.
// A key in a legend is drawn with the strokes and fills of its series, so that both always agree.

import { freshId, s } from './element.js';

const HUES = 6;
/** Strokes of the hatches, in a square of `CELL`; the first is plain. */
const HATCHES = [
  '',
  'M0 3L3 0M0 9L9 0M6 9L9 6',
  'M3 4.5h.01M7.5 0h.01M7.5 9h.01',
  'M0 4.5h9',
  'M0 6L3 9M0 0L9 9M6 0L9 3',
];
const CELL = 9;

/** The look of the processor at that place: its hue, as the name of a style, and its hatch. All pairs of the first 30 differ. */
export const lookOf = (index) => ({
  kind: `p${(index % HUES) + 1}`,
  hatch: index % HATCHES.length,
});

/** The fill of an area, to be put into the same SVG; `fill` refers to it. */
export function hatching({ kind, hatch }) {
  const id = freshId('hatch');
  const pattern = s(
    'pattern',
    { id, class: kind, width: CELL, height: CELL, patternUnits: 'userSpaceOnUse' },
    s('rect', { class: 'tint', width: CELL, height: CELL }),
    s('path', { class: 'hatch', d: HATCHES[hatch] }),
  );
  return { pattern, fill: `url(#${id})` };
}

/** A key of a legend: an area where the look has a hatch, or else a line. */
export function key(look) {
  const size = { class: 'key', 'aria-hidden': 'true', height: 12 };
  if (look.hatch == null) {
    return s(
      'svg',
      { ...size, width: 22, viewBox: '0 0 22 12' },
      s('path', { class: `line ${look.kind}`, d: 'M0 6h22' }),
    );
  }
  const { pattern, fill } = hatching(look);
  return s(
    'svg',
    { ...size, width: 12, viewBox: '0 0 12 12' },
    pattern,
    s('rect', { class: `area ${look.kind}`, x: 1, y: 1, width: 10, height: 10, fill }),
  );
}
