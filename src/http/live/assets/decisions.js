// The last decisions of this instance's router about payments, and why.

import { byId, h } from './element.js';
import { calmSpan, span } from './format.js';
import { key as sign, lookOf } from './series.js';

const SHOWN = 5;
/** A decision that is older says nothing about now. */
const RECENT_MS = 30_000;
const WORDS = { send: 'sent to', probe: 'probed', hold: 'held', wait: 'waits' };
const LEFT_OUT = {
  switched_off: 'switched off',
  breaker_open: 'breaker open',
  trials_out: 'trials under way',
  probe_due: '',
};

/** What the others were worth, or why they could not have it. */
const weighed = ({ alternatives }) =>
  alternatives
    .map(({ processor, utility, leftOut }) => [
      processor,
      utility == null ? (LEFT_OUT[leftOut] ?? leftOut) : utility.toFixed(3),
    ])
    .filter(([, text]) => text)
    .map((words) => words.join(' '))
    .join(' · ');

export function decisionList() {
  const body = byId('decisions-body');
  let drawn = null;
  return ({ router }) => {
    const recent = router.decisions.filter(({ ageMs }) => ageMs < RECENT_MS).slice(0, SHOWN);
    const [newest] = router.decisions;
    const empty = newest
      ? `No payment in the last ${calmSpan(newest.ageMs)}.`
      : 'No payment has come to this instance yet.';
    const key = recent.length > 0 ? JSON.stringify(recent) : empty;
    if (key === drawn) return;
    drawn = key;
    if (recent.length === 0) {
      body.replaceChildren(h('p', { class: 'empty' }, empty));
      return;
    }
    const index = (name) => router.processors.findIndex((processor) => processor.name === name);
    body.replaceChildren(
      h(
        'ol',
        { class: 'decisions' },
        recent.map((decision) =>
          h(
            'li',
            {},
            h(
              'span',
              { class: 'choice', 'data-choice': decision.choice },
              WORDS[decision.choice],
              ' ',
              decision.processor
                ? h(
                    'span',
                    { class: 'signed' },
                    sign(lookOf(index(decision.processor))),
                    h('b', { class: 'name' }, decision.processor),
                  )
                : null,
            ),
            h(
              'span',
              { class: 'weighed muted' },
              [decision.reason, weighed(decision)].filter(Boolean).join(': '),
            ),
            h('span', { class: 'age muted' }, `${span(decision.ageMs)} ago`),
          ),
        ),
      ),
    );
  };
}
