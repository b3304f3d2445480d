// A chart of the last two minutes, drawn anew each second and shifted smoothly in between. The values
// of the newest second stand in the legend; a pointer or the arrow keys bring up those of another.

import { freshId, h, mark, motion, s, say } from './element.js';
import { hatching, key } from './series.js';

const HEIGHT = 168;
const ROOM = { top: 8, right: 4, bottom: 20, left: 54 };
const LINES = 3;
const STEP_MS = 1000;

/**
 * `series`: [{ name, kind, hatch }], `kind` names a style; those with a hatch are areas, stacked. `format` makes a
 * value text, `axis` those at the scale.
 * `least`: the top of the scale when all is small.
 */
export class TimeChart {
  constructor(panel, { title, note, series, format, axis = format, least }) {
    Object.assign(this, { series, format, axis, least, columns: [], cursor: null, width: 0 });
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
    this.moving = s('g', {});
    this.paths = series.map((each) => {
      if (each.hatch == null) return s('path', { class: `line ${each.kind}` });
      const { pattern, fill } = hatching(each);
      this.moving.append(pattern);
      return s('path', { class: `area ${each.kind}`, fill });
    });
    this.moving.append(...this.paths);
    this.line = s('line', { class: 'cursor', y1: ROOM.top, y2: HEIGHT - ROOM.bottom, visibility: 'hidden' });
    this.window = s('rect', { x: ROOM.left, y: 0, height: HEIGHT });
    this.svg = s('svg', { class: 'chart', height: HEIGHT, role: 'img', tabindex: 0, 'aria-describedby': `${panel.id}-hint` },
      s('clipPath', { id: clip }, this.window), this.grid,
      s('g', { 'clip-path': `url(#${clip})` }, this.moving), this.line);
    this.spoken = h('p', { class: 'unseen', 'aria-live': 'polite' });
    panel.replaceChildren(h('div', { class: 'panel-head' }, this.title, this.when), this.legend, this.svg, this.spoken,
      h('p', { class: 'unseen', id: `${panel.id}-hint` }, 'Left and right arrow keys read single seconds.'));
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => this.select(null));
    this.svg.addEventListener('blur', () => this.select(null));
    this.svg.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.draw();
    }).observe(this.svg);
  }

  /** Takes columns of equal length, one per series, null where nothing is known, that begin at second `from`. */
  update(from, columns) {
    const seconds = from - this.from;
    this.from = from;
    this.columns = columns;
    this.draw(seconds > 0 && seconds < 5 ? seconds : 0);
    this.read();
  }

  get length() { return this.columns[0]?.length ?? 0; }
  get step() { return (this.width - ROOM.left - ROOM.right) / Math.max(1, this.length - 1); }
  x(place) { return ROOM.left + place * this.step; }

  draw(seconds = 0) {
    if (!this.length || this.width < ROOM.left + 20) return;
    mark(this.window, 'width', this.width - ROOM.left - ROOM.right);
    const stacked = this.series.map(({ hatch }) => hatch != null);
    const floors = [];
    const sums = Array(this.length).fill(0);
    this.columns.forEach((column, index) => {
      floors[index] = [...sums];
      if (stacked[index]) column.forEach((value, place) => { sums[place] += value ?? 0; });
    });
    const all = [...sums, ...this.columns.flatMap((column, index) => (stacked[index] ? [] : column.filter((value) => value != null)))];
    const [top, unit] = scale(Math.max(this.least, ...all));
    const y = (value) => ROOM.top + (HEIGHT - ROOM.top - ROOM.bottom) * (1 - value / top);
    this.columns.forEach((column, index) => {
      const path = stacked[index]
        ? area(column, (place) => this.x(place), (place) => y(floors[index][place]), (place) => y(floors[index][place] + (column[place] ?? 0)))
        : lines(column, (place) => this.x(place), y);
      this.paths[index].setAttribute('d', path);
    });
    this.drawGrid(top, unit, y);
    if (seconds > 0 && motion()) {
      this.moving.animate([{ transform: `translateX(${seconds * this.step}px)` }, { transform: 'none' }], { duration: STEP_MS, easing: 'linear' });
    }
    if (this.cursor != null) this.select(this.cursor);
  }

  drawGrid(top, unit, y) {
    const right = this.width - ROOM.right;
    const marks = [];
    for (let value = 0; value <= top + unit / 2; value += unit) {
      marks.push(s('line', { x1: ROOM.left, x2: right, y1: y(value), y2: y(value) }),
        s('text', { x: ROOM.left - 8, y: y(value) + 4, 'text-anchor': 'end' }, this.axis(value)));
    }
    const last = this.length - 1;
    const times = this.width > 360 ? [[0, '2 min ago', 'start'], [30, '90 s', 'middle'], [60, '60 s', 'middle'], [90, '30 s', 'middle'], [last, 'now', 'end']]
      : [[0, '2 min ago', 'start'], [60, '1 min', 'middle'], [last, 'now', 'end']];
    for (const [place, text, anchor] of times) {
      marks.push(s('text', { x: this.x(place), y: HEIGHT - 4, 'text-anchor': anchor }, text));
    }
    this.grid.replaceChildren(...marks);
  }

  /** Puts the values of the selected second, or of the newest, into words. */
  read() {
    const place = this.cursor ?? this.length - 1;
    const values = this.columns.map((column) => this.format(column[place]));
    values.forEach((value, index) => say(this.readings[index], value));
    const ago = this.length - place;
    say(this.when, this.cursor == null ? this.note : `${ago} s ago`);
    const words = this.series.map(({ name }, index) => `${name} ${values[index]}`).join(', ');
    mark(this.svg, 'aria-label', `${this.title.textContent}: ${words}`);
    return `${ago} s ago: ${words}`;
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
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
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
  const unit = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  return [Math.ceil((most / unit) * 0.999) * unit, unit];
}

function lines(column, x, y) {
  let path = '';
  let open = false;
  column.forEach((value, place) => {
    if (value == null) { open = false; return; }
    path += `${open ? 'L' : 'M'}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
    // A single known second between unknown ones is a dot.
    if (!open && column[place + 1] == null) path += 'h.01';
    open = true;
  });
  return path;
}

function area(column, x, floor, roof) {
  const along = (height) => column.map((_, place) => `${x(place).toFixed(1)} ${height(place).toFixed(1)}`);
  return `M${along(roof).join('L')}L${along(floor).reverse().join('L')}Z`;
}
