// What was in the last hours, minute by minute, for whoever comes after an alarm.

import { call } from './api.js';
import { byId, h, s, say } from './element.js';
import { count, shortCount, shortSpan } from './format.js';
import { strip, whoSwitched } from './processors.js';
import { lookOf } from './series.js';
import { choices } from './simulation.js';
import { TimeChart } from './time_chart.js';

/** Milliseconds between two looks: a minute is told when it has been over for a while. */
const LOOK_MS = 60_000;
const HOURS = [1, 6, 24];
const MINUTE_MS = 60_000;
/** A label of the time axis has at least so many pixels. */
const TICK_WIDTH = 90;
const GAP = 'no record';

const clock = (ms) => new Date(ms).toISOString().slice(11, 16);

/** Steps of a minute, by the clock (UTC). */
const MINUTES = {
  key: (from) => Math.floor(from / MINUTE_MS),
  ticks: (from, length, width) => {
    const every =
      [10, 30, 60, 120, 240, 480].find((minutes) => (minutes / length) * width >= TICK_WIDTH) ??
      720;
    const places = Array.from({ length }, (_, place) => place);
    return places
      .filter((place) => (from / MINUTE_MS + place) % every === 0 && place > 0)
      .map((place) => [
        place,
        clock(from + place * MINUTE_MS),
        place > length - every / 4 ? 'end' : 'middle',
      ]);
  },
  when: (from, place) => `${clock(from + place * MINUTE_MS)} UTC`,
  hint: 'Left and right arrow keys read single minutes, page up and down ten.',
};

export function whatWas() {
  let [hours, lookedAt, charts, key] = [HOURS[1], -Infinity, null, null];
  const hour = choices(
    'history-hours',
    HOURS.map((each) => [each, `${each}`]),
    (chosen) => {
      hours = chosen;
      look();
    },
  );
  byId('history-hours').append(hour.element);

  const look = async () => {
    lookedAt = performance.now();
    hour.show(hours);
    try {
      draw(await call('GET', `/history?hours=${hours}`));
    } catch {
      // The headline says what is wrong; it is read again as soon as that is over.
      lookedAt = -Infinity;
      say(byId('history-note'), 'Unknown: it could not be read. What is shown is as it was.');
    }
  };

  const draw = (now) => {
    const names = now.processors.map(({ name }) => name);
    if (key !== JSON.stringify(names)) {
      key = JSON.stringify(names);
      charts?.forEach((chart) => chart.end());
      charts = chartsFor(names);
    }
    const from = Date.parse(now.from);
    const seen = now.instances.map((instances) => instances > 0);
    // What the ledger says of a minute that nobody saw is known; that nothing was settled in it is
    // not told apart.
    const settled = now.processors.map(({ settled: column }) =>
      column.map((value, place) => (seen[place] || value > 0 ? value : null)),
    );
    charts[0].update(from, [...settled, now.accepted, now.refused], seen);
    // Whoever looked saw one, unless the database was away.
    charts[1].update(
      from,
      [now.queued],
      now.queued.map((value) => value != null),
    );
    charts[2].update(from, [now.p50Ms, now.p99Ms], seen);
    breakers(now, from);
    const gaps = seen.filter((each) => !each).length;
    const away = now.queued.filter((value, place) => seen[place] && value == null).length;
    say(
      byId('history-note'),
      [
        `${clock(from)} to ${clock(from + seen.length * MINUTE_MS)} UTC, all instances, minute by minute.`,
        gaps
          ? `Of ${count(gaps)} of ${count(seen.length)} minutes there is no record: no instance ran, or it was killed.`
          : '',
        away ? `In ${count(away)} the database did not answer.` : '',
      ]
        .filter(Boolean)
        .join(' '),
    );
  };

  return ({ databaseAwayMs }) => {
    if (databaseAwayMs == null && performance.now() - lookedAt >= LOOK_MS) look();
  };
}

function chartsFor(names) {
  const common = { steps: MINUTES, gap: GAP, format: shortCount, least: 10 };
  return [
    new TimeChart(byId('history-throughput'), {
      ...common,
      title: 'Payments per minute',
      note: 'all instances',
      series: [
        ...names.map((name, index) => ({ name, ...lookOf(index) })),
        { name: 'accepted', kind: 'accepted' },
        { name: 'refused', kind: 'refused' },
      ],
    }),
    new TimeChart(byId('history-queue'), {
      ...common,
      title: 'Longest queue',
      note: 'of each minute',
      series: [{ name: 'payments', kind: 'queued' }],
    }),
    new TimeChart(byId('history-latency'), {
      ...common,
      title: 'Time to settle, by the minute',
      note: 'a sample',
      format: shortSpan,
      series: [
        { name: 'median', kind: 'p50' },
        { name: '99 %', kind: 'p99' },
      ],
    }),
  ];
}

/** A strip for each processor, and who switched what. */
function breakers(now, from) {
  const rows = now.processors.map(({ name, openSeconds, halfOpenSeconds, offSeconds }) => {
    const states = openSeconds.map((open, place) =>
      open == null
        ? null
        : offSeconds[place] > 0
          ? 'off'
          : open > 0
            ? 'open'
            : halfOpenSeconds[place] > 0
              ? 'half_open'
              : 'closed',
    );
    const minutes = (state) => states.filter((each) => each === state).length;
    const words = [
      ['open', 'breaker open'],
      ['half_open', 'half open'],
      ['off', 'switched off'],
      [null, 'no record'],
    ]
      .map(([state, text]) => [minutes(state), text])
      .filter(([number]) => number > 0)
      .map(([number, text]) => `${text} in ${count(number)}`);
    const told =
      words.length > 0
        ? `${words.join(', ')} of ${count(states.length)} minutes`
        : 'as it should be';
    const when = ({ state, place, length }) =>
      `${clock(from + place * MINUTE_MS)} UTC: ${(state ?? 'no record').replace('_', ' ')}, ${count(length)} min`;
    const svg = s(
      'svg',
      {
        class: 'strip',
        viewBox: `0 0 ${states.length} 8`,
        preserveAspectRatio: 'none',
        'aria-hidden': 'true',
      },
      strip(states, when),
    );
    return h('li', {}, h('p', {}, h('b', {}, name), ' ', h('span', { class: 'muted' }, told)), svg);
  });
  const switches = now.switches.map((each) =>
    h('li', {}, h('b', {}, each.processor), ' ', whoSwitched(each)),
  );
  byId('history-breakers-body').replaceChildren(
    h('ul', { class: 'strips' }, rows),
    h('h3', {}, 'Switched by operators'),
    switches.length > 0
      ? h('ul', { class: 'switches', tabindex: 0, 'aria-label': 'Switches' }, switches)
      : h('p', { class: 'muted' }, 'Nothing in that time.'),
  );
}
