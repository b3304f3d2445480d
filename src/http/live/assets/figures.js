// The key figures at the top.

import { byId, h, mark, say } from './element.js';
import { none, rate, shortCount, shortSpan, span, unknown } from './format.js';

/** Rates are means over so many seconds, or they would only flicker. */
const MEAN_SECONDS = 5;

const FIGURES = [
  {
    id: 'settled',
    label: 'Settled',
    unit: 'per second',
    value: ({ columns }) => perSecond(mean(totals(columns))),
  },
  {
    id: 'accepted',
    label: 'Accepted',
    unit: 'per second',
    value: ({ columns }) => perSecond(mean(columns.accepted)),
  },
  {
    id: 'queued',
    label: 'Queue',
    unit: '',
    value: ({ deployment: d }) =>
      `${d.queue.queued.exact ? '' : '≈ '}${shortCount(d.queue.queued.value)}`,
    note: ({ deployment: d }) =>
      d.queue.queued.value > 0
        ? `oldest ${span(d.queue.oldestAgeSeconds * 1000)}`
        : 'nothing waits',
  },
  {
    id: 'latency',
    label: 'Time to settle',
    unit: '',
    value: ({ columns }) => span(columns.p50Ms.at(-1)),
    note: ({ columns }) =>
      columns.p99Ms.at(-1) == null
        ? 'nothing settled lately'
        : `median; 99 % within ${shortSpan(columns.p99Ms.at(-1))}`,
  },
  {
    id: 'in-doubt',
    label: 'In doubt',
    unit: '',
    value: ({ deployment: d }) =>
      `${d.queue.inDoubt.exact ? '' : '≥ '}${shortCount(d.queue.inDoubt.value)}`,
    note: () => 'their processor is asked',
    level: ({ deployment: d }) => (d.queue.inDoubt.value > 0 ? 'watch' : 'calm'),
  },
  {
    id: 'dead',
    label: 'Dead letters',
    unit: '',
    value: ({ deployment: d }) =>
      `${d.queue.deadLetters.exact ? '' : '≈ '}${shortCount(d.queue.deadLetters.value)}`,
    note: ({ deployment: d }) =>
      d.queue.deadLetters.value > 0 ? 'need a person, see below' : 'none to look at',
    level: ({ deployment: d }) => (d.queue.deadLetters.value > 0 ? 'watch' : 'calm'),
  },
];

/** While the database is away nobody knows any of them. */
const isKnown = ({ deployment, databaseAwayMs }) => deployment != null && databaseAwayMs == null;

const perSecond = (value) => (value == null ? unknown : rate(value));

/** By second, null where nobody knows. */
const totals = ({ settled, accepted }) =>
  accepted.map((_, place) =>
    settled.reduce(
      (sum, column) => (sum == null || column[place] == null ? null : sum + column[place]),
      0,
    ),
  );

function mean(column) {
  const known = column.slice(-MEAN_SECONDS).filter((value) => value != null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

export function figures() {
  const parts = FIGURES.map((figure) => {
    const value = h('span', { class: 'value', id: `figure-${figure.id}` }, none);
    const note = h('p', { class: 'note' });
    const tile = h(
      'article',
      { class: 'panel figure' },
      h('h2', {}, figure.label),
      h('p', { class: 'reading' }, value, ' ', h('span', { class: 'unit' }, figure.unit)),
      note,
    );
    return { ...figure, tile, readings: { value, note } };
  });
  byId('figures').replaceChildren(...parts.map((part) => part.tile));
  return (snapshot) => {
    const known = isKnown(snapshot);
    for (const part of parts) {
      say(part.readings.value, known ? part.value(snapshot) : unknown);
      mark(part.readings.value, 'data-known', known);
      say(
        part.readings.note,
        known
          ? (part.note?.(snapshot) ?? `mean of ${MEAN_SECONDS} s`)
          : 'the database does not answer',
      );
      mark(part.tile, 'data-level', known ? (part.level?.(snapshot) ?? 'calm') : 'calm');
    }
  };
}
