// The key figures at the top.

import { byId, h, mark, say } from './element.js';
import { count, none, rate, shortCount, shortSpan, span } from './format.js';

/** Rates are means over so many seconds, or they would only flicker. */
const MEAN_SECONDS = 5;

const FIGURES = [
  { id: 'settled', label: 'Settled', unit: 'per second', value: ({ columns }) => rate(mean(totals(columns))) },
  { id: 'accepted', label: 'Accepted', unit: 'per second', value: ({ columns }) => rate(mean(columns.accepted)) },
  {
    id: 'queued', label: 'Queue', unit: '',
    value: ({ deployment: d }) => (d ? `${d.census.queued.exact ? '' : '≈ '}${shortCount(d.census.queued.value)}` : none),
    note: ({ deployment: d }) => (d && d.census.queued.value > 0 ? `oldest ${span(d.census.oldestAgeSeconds * 1000)}` : 'nothing waits'),
  },
  {
    id: 'latency', label: 'Time to settle', unit: '',
    value: ({ columns }) => span(columns.p50Ms.at(-1)),
    note: ({ columns }) => (columns.p99Ms.at(-1) == null ? 'nothing settled lately' : `median; 99 % within ${shortSpan(columns.p99Ms.at(-1))}`),
  },
  {
    id: 'in-doubt', label: 'In doubt', unit: '', value: ({ deployment: d }) => count(d?.census.inDoubt.value),
    note: () => 'their processor is asked',
    level: ({ deployment: d }) => (d?.census.inDoubt.value > 0 ? 'watch' : 'calm'),
  },
  {
    id: 'dead', label: 'Dead letters', unit: '', value: ({ deployment: d }) => count(d?.census.deadLetters.value),
    note: ({ deployment: d }) => (d?.census.deadLetters.value > 0 ? 'need a person, see below' : 'none to look at'),
    level: ({ deployment: d }) => (d?.census.deadLetters.value > 0 ? 'watch' : 'calm'),
  },
];

const totals = (columns) => columns.accepted.map((_, place) => columns.settled.reduce((sum, column) => sum + column[place], 0));

function mean(column) {
  const known = column.slice(-MEAN_SECONDS).filter((value) => value != null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

export function figures() {
  const parts = FIGURES.map((figure) => {
    const value = h('span', { class: 'value', id: `figure-${figure.id}` }, none);
    const note = h('p', { class: 'note' });
    const tile = h('article', { class: 'panel figure' },
      h('h2', {}, figure.label), h('p', { class: 'reading' }, value, ' ', h('span', { class: 'unit' }, figure.unit)), note);
    return { ...figure, tile, readings: { value, note } };
  });
  byId('figures').append(...parts.map((part) => part.tile));
  return (snapshot) => {
    for (const part of parts) {
      say(part.readings.value, part.value(snapshot));
      say(part.readings.note, part.note?.(snapshot) ?? `mean of ${MEAN_SECONDS} s`);
      mark(part.tile, 'data-level', part.level?.(snapshot) ?? 'calm');
    }
  };
}
