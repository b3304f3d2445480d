// A chart of what was, step by step: of the last two minutes, or of hours. The values of the newest
// step stand in the legend; a pointer or the arrow keys bring up those of another. It is drawn when
// its values change, and stands still in between: what moves is painted sixty times a second, which
// cost half a CPU.

import { freshId, h, mark, s, say } from './element.js';
import { none, unknown } from './format.js';
import { hatching, key } from './series.js';

const HEIGHT = 168;
const ROOM = { top: 8, right: 4, bottom: 20, left: 54 };
const LINES = 3;
/** A gap that is narrower has no room for its label. */
const LABEL_WIDTH = 90;

/** The two minutes, second by second, that a snapshot has. */
export const SECONDS = {
  ticks: (_, length, width) =>
    width > 360
      ? [
          [0, '2 min ago', 'start'],
          [30, '90 s', 'middle'],
          [60, '60 s', 'middle'],
          [90, '30 s', 'middle'],
          [length - 1, 'now', 'end'],
        ]
      : [
          [0, '2 min ago', 'start'],
          [60, '1 min', 'middle'],
          [length - 1, 'now', 'end'],
        ],
  when: (_, place, length) => `${length - place} s ago`,
  hint: 'Left and right arrow keys read single seconds.',
};

/**
 * `series`: [{ name, kind, hatch }], `kind` names a style; those with a hatch are areas, stacked. `format` makes a
 * value text, `axis` those at the scale.
 * `least`: the top of the scale when all is small. `steps`: what a place stands for. `gap`: what it means that no series
 * has a value; without it such places are blank.
 */
export class TimeChart {
  constructor(
    panel,
    { title, note, series, format, axis = format, least, steps = SECONDS, gap = null },
  ) {
    Object.assign(this, {
      series,
      format,
      axis,
      least,
      steps,
      gap,
      columns: [],
      cursor: null,
      width: 0,
      drawn: '',
    });
    const clip = freshId('clip');
    this.title = h('h2', { id: `${panel.id}-title` }, title);
    this.legend = h('ul', { class: 'legend' });
    this.readings = series.map((each) => {
      const value = h('b', {});
      this.legend.append(h('li', {}, key(each), h('span', {}, each.name, ' ', value)));
      return value;
    });
    this.when = h('p', { class: 'when muted' }, note);
    this.note = note;
    this.grid = s('g', { class: 'grid' });
    this.gaps = s('g', { class: 'gaps' });
    const patterns = [];
    this.paths = series.map((each) => {
      if (each.hatch == null) return s('path', { class: `line ${each.kind}` });
      const { pattern, fill } = hatching(each);
      patterns.push(pattern);
      return s('path', { class: `area ${each.kind}`, fill });
    });
    this.line = s('line', {
      class: 'cursor',
      y1: ROOM.top,
      y2: HEIGHT - ROOM.bottom,
      visibility: 'hidden',
    });
    this.window = s('rect', { x: ROOM.left, y: 0, height: HEIGHT });
    this.svg = s(
      'svg',
      {
        class: 'chart',
        height: HEIGHT,
        role: 'img',
        tabindex: 0,
        'aria-describedby': `${panel.id}-hint`,
      },
      s('clipPath', { id: clip }, this.window),
      this.grid,
      s('g', { 'clip-path': `url(#${clip})` }, patterns, this.gaps, this.paths),
      this.line,
    );
    this.spoken = h('p', { class: 'unseen', 'aria-live': 'polite' });
    panel.replaceChildren(
      h('div', { class: 'panel-head' }, this.title, this.when),
      this.legend,
      this.svg,
      this.spoken,
      h('p', { class: 'unseen', id: `${panel.id}-hint` }, steps.hint),
    );
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => this.select(null));
    this.svg.addEventListener('blur', () => this.select(null));
    this.svg.addEventListener('keydown', (event) => this.key(event));
    this.resized = new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.draw();
    });
    this.resized.observe(this.svg);
  }

  /** Nobody looks at it any more. */
  end() {
    this.resized.disconnect();
  }

  /** Takes columns of equal length, one per series, null where there is nothing, that begin at step `from`.
   * `known` tells of which places something is known; without it of those that have a value. */
  update(from, columns, known = null) {
    this.known = known;
    this.from = from;
    this.columns = columns;
    this.draw();
    this.read();
  }

  get length() {
    return this.columns[0]?.length ?? 0;
  }
  get step() {
    return (this.width - ROOM.left - ROOM.right) / Math.max(1, this.length - 1);
  }
  x(place) {
    return ROOM.left + place * this.step;
  }

  draw() {
    if (!this.length || this.width < ROOM.left + 20) return;
    mark(this.window, 'width', this.width - ROOM.left - ROOM.right);
    const stacked = this.series.map(({ hatch }) => hatch != null);
    const floors = [];
    const sums = Array(this.length).fill(0);
    this.columns.forEach((column, index) => {
      floors[index] = [...sums];
      if (stacked[index])
        column.forEach((value, place) => {
          sums[place] += value ?? 0;
        });
    });
    const all = [
      ...sums,
      ...this.columns.flatMap((column, index) =>
        stacked[index] ? [] : column.filter((value) => value != null),
      ),
    ];
    const [top, unit] = scale(Math.max(this.least, ...all));
    const y = (value) => ROOM.top + (HEIGHT - ROOM.top - ROOM.bottom) * (1 - value / top);
    this.columns.forEach((column, index) => {
      const path = stacked[index]
        ? area(
            column,
            (place) => this.x(place),
            (place) => y(floors[index][place]),
            (place) => y(floors[index][place] + (column[place] ?? 0)),
          )
        : lines(column, (place) => this.x(place), y);
      mark(this.paths[index], 'd', path);
    });
    this.drawGrid(top, unit, y);
    if (this.gap) this.drawGaps();
    if (this.cursor != null) this.select(this.cursor);
  }

  /** Marks the places of which nothing is known, and says what that means. */
  drawGaps() {
    const known = (place) =>
      this.known?.[place] ?? this.columns.some((column) => column[place] != null);
    const runs = [];
    for (let place = 0; place < this.length; place += 1) {
      if (known(place)) continue;
      if (runs.at(-1)?.end === place) runs.at(-1).end += 1;
      else runs.push({ start: place, end: place + 1 });
    }
    const height = HEIGHT - ROOM.top - ROOM.bottom;
    this.gaps.replaceChildren(
      ...runs
        .flatMap(({ start, end }) => {
          const [x, width] = [this.x(start), Math.max(2, (end - start) * this.step)];
          return [
            s('rect', { class: 'gap', x, y: ROOM.top, width, height }, s('title', {}, this.gap)),
            width > LABEL_WIDTH
              ? s(
                  'text',
                  { x: x + width / 2, y: ROOM.top + height / 2, 'text-anchor': 'middle' },
                  this.gap,
                )
              : null,
          ];
        })
        .filter(Boolean),
    );
  }

  drawGrid(top, unit, y) {
    // Most of the time the scale is as it was.
    const key = `${top} ${unit} ${this.width} ${this.length} ${this.steps.key?.(this.from) ?? ''}`;
    if (key === this.drawn) return;
    this.drawn = key;
    const right = this.width - ROOM.right;
    const marks = [];
    for (let value = 0; value <= top + unit / 2; value += unit) {
      marks.push(
        s('line', { x1: ROOM.left, x2: right, y1: y(value), y2: y(value) }),
        s('text', { x: ROOM.left - 8, y: y(value) + 4, 'text-anchor': 'end' }, this.axis(value)),
      );
    }
    for (const [place, text, anchor] of this.steps.ticks(this.from, this.length, this.width)) {
      marks.push(s('text', { x: this.x(place), y: HEIGHT - 4, 'text-anchor': anchor }, text));
    }
    this.grid.replaceChildren(...marks);
  }

  /** Puts the values of the selected second, or of the newest, into words. */
  read() {
    const place = this.cursor ?? this.length - 1;
    const nothing = this.known?.[place] === false ? unknown : none;
    const values = this.columns.map((column) =>
      column[place] == null ? nothing : this.format(column[place]),
    );
    values.forEach((value, index) => say(this.readings[index], value));
    const when = this.steps.when(this.from, place, this.length);
    say(this.when, this.cursor == null ? this.note : when);
    const words = this.series.map(({ name }, index) => `${name} ${values[index]}`).join(', ');
    mark(this.svg, 'aria-label', `${this.title.textContent}: ${words}`);
    return `${when}: ${words}`;
  }

  select(place) {
    this.cursor = place;
    mark(this.line, 'visibility', place == null ? 'hidden' : 'visible');
    if (place != null) {
      mark(this.line, 'x1', this.x(place));
      mark(this.line, 'x2', this.x(place));
    }
    if (this.length) this.read();
  }

  point(event) {
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    this.select(clamp(Math.round((x - ROOM.left) / this.step), 0, this.length - 1));
  }

  key(event) {
    const by = {
      ArrowLeft: -1,
      ArrowRight: 1,
      PageUp: -10,
      PageDown: 10,
      Home: -Infinity,
      End: Infinity,
    }[event.key];
    if (event.key === 'Escape') this.select(null);
    if (by === undefined || !this.length) return;
    event.preventDefault();
    this.select(clamp((this.cursor ?? this.length) + by, 0, this.length - 1));
    say(this.spoken, this.read());
  }
}

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

/** The top of a scale that holds `most`, and the distance of its lines: 1, 2 or 5 times a power of ten. */
export function scale(most) {
  const rough = most / LINES;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10]
    .map((factor) => factor * power)
    .find((candidate) => candidate >= rough * 0.999);
  return [Math.ceil((most / unit) * 0.999) * unit, unit];
}

function lines(column, x, y) {
  let path = '';
  let open = false;
  column.forEach((value, place) => {
    if (value == null) {
      open = false;
      return;
    }
    path += `${open ? 'L' : 'M'}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
    // A single known second between unknown ones is a dot.
    if (!open && column[place + 1] == null) path += 'h.01';
    open = true;
  });
  return path;
}

/** One area for each run of known places. */
/** Where there is nothing, nothing is drawn: its edge would lie upon that of the area below. */
function area(column, x, floor, roof) {
  const isDrawn = (place) =>
    column[place] != null && [place - 1, place, place + 1].some((near) => column[near] > 0);
  let path = '';
  for (let start = 0; start < column.length; start += 1) {
    if (!isDrawn(start)) continue;
    let end = start;
    while (end + 1 < column.length && isDrawn(end + 1)) end += 1;
    const places = Array.from({ length: end - start + 1 }, (_, index) => start + index);
    const along = (height) =>
      places.map((place) => `${x(place).toFixed(1)} ${height(place).toFixed(1)}`);
    path += `M${along(roof).join('L')}L${along(floor).reverse().join('L')}Z`;
    start = end;
  }
  return path;
}
