// The last decisions of this instance's router, and by which utilities.

import { byId, h } from './element.js';
import { span } from './format.js';
import { key, lookOf } from './series.js';

const SHOWN = 5;
const WORDS = { send: 'send to', probe: 'probe', hold: 'hold', wait: 'wait' };
const HELD = 'the cheaper one may be back soon';
const NO_SLOT = 'for a free slot';
const NO_PROCESSOR = 'until one may be asked';

function why({ choice, alternatives }) {
  if (choice === 'hold') return HELD;
  return alternatives.some(({ utility }) => utility != null) ? NO_SLOT : NO_PROCESSOR;
}

export function decisionList() {
  const body = byId('decisions-body');
  return ({ router }) => {
    const index = (name) => router.processors.findIndex((processor) => processor.name === name);
    const rows = router.decisions.slice(0, SHOWN).map((decision) => h('li', {},
      h('span', { class: 'choice', 'data-choice': decision.choice }, WORDS[decision.choice], ' ',
        decision.processor ? h('span', { class: 'signed' }, key(lookOf(index(decision.processor))), h('b', { class: 'name' }, decision.processor)) : h('span', { class: 'muted' }, why(decision))),
      h('span', { class: 'weighed muted' }, decision.alternatives.map(({ processor, utility }) =>
        `${processor} ${utility == null ? 'not asked' : utility.toFixed(3)}`).join(' · ')),
      h('span', { class: 'age muted' }, `${span(decision.ageMs)} ago`)));
    if (rows.length === 0) body.replaceChildren(h('p', { class: 'empty' }, 'No payment has come to this instance yet.'));
    else body.replaceChildren(h('ol', { class: 'decisions' }, rows));
  };
}
