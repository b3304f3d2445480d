// Payments that a processor may have charged and has not said so yet: where, for how long, and what
// the last attempt saw.

import { call } from './api.js';
import { byId, h, say } from './element.js';
import { calmSpan, count, moment, money } from './format.js';

/** Milliseconds between two looks while there are some. */
const LOOK_MS = 5000;

export function inDoubt() {
  const body = byId('in-doubt-body');
  let [seen, lookedAt, rows] = [null, -Infinity, []];

  const row = (payment) => {
    const age = h('span', {});
    const told = payment.configured === false ? ' · not configured any more: nobody asks it' : '';
    const element = h(
      'li',
      { 'data-payment': payment.correlationId },
      h(
        'div',
        { class: 'letter' },
        h(
          'p',
          { class: 'letter-head' },
          h('code', {}, payment.correlationId),
          h('b', {}, money(payment.amount)),
        ),
        h(
          'p',
          { class: 'why' },
          payment.reason ?? 'its worker ended before it could say what it saw',
        ),
        h(
          'p',
          { class: 'muted' },
          `${payment.processor}${told} · sent ${moment(payment.requestedAt)}, `,
          age,
          ` · a "no" is proof from ${moment(payment.doubtUntil)} on`,
        ),
      ),
    );
    return {
      element,
      update: (atMs) =>
        say(age, `${calmSpan(Math.max(0, atMs - Date.parse(payment.requestedAt)))} ago`),
    };
  };

  const reload = async (total, atMs) => {
    try {
      const payments = await call('GET', '/in-doubt');
      rows = payments.map(row);
      rows.forEach((each) => each.update(atMs));
      if (rows.length === 0)
        body.replaceChildren(
          h(
            'p',
            { class: 'empty' },
            'None. A payment comes here when nobody knows whether its processor charged it.',
          ),
        );
      else {
        body.replaceChildren(
          h(
            'ul',
            { class: 'letters', tabindex: 0, 'aria-label': 'Payments in doubt' },
            rows.map(({ element }) => element),
          ),
          ...(total > rows.length
            ? [h('p', { class: 'muted' }, `The oldest ${count(rows.length)} of ${count(total)}.`)]
            : []),
        );
      }
    } catch {
      // The headline says what is wrong; it is asked for again.
      seen = null;
    }
  };

  return ({ deployment, databaseAwayMs, atMs }) => {
    const known = deployment != null && databaseAwayMs == null;
    say(
      byId('in-doubt-age'),
      known ? '' : 'Unknown: the database does not answer. What is listed is as it was.',
    );
    rows.forEach((each) => each.update(atMs));
    if (!known) return;
    const total = deployment.queue.inDoubt.value;
    const due = total > 0 && atMs - lookedAt >= LOOK_MS;
    if (total === seen && !due) return;
    [seen, lookedAt] = [total, atMs];
    reload(total, atMs);
  };
}
