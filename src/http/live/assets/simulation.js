// The controls of the simulation. They are there only where the service was told so.

import { act } from './api.js';
import { byId, freshId, h, mark } from './element.js';

const RATES = [0, 20, 100, 400];
const DELAYS = [
  [0, 'none'],
  [100, '100 ms'],
  [1000, '1 s'],
  [3000, '3 s'],
];

/** A row of radio buttons; `choose(value)` when a person picks one. */
export function choices(name, options, choose) {
  const inputs = options.map(([value, text]) => {
    const id = freshId('choice');
    const input = h('input', { type: 'radio', name, id, value, onchange: () => choose(value) });
    return { value, input, parts: [input, h('label', { for: id }, text)] };
  });
  return {
    element: h(
      'div',
      { class: 'segments' },
      inputs.flatMap(({ parts }) => parts),
    ),
    // Another value than those offered, set elsewhere, leaves none checked.
    show: (value) =>
      inputs.forEach((each) => {
        each.input.checked = each.value === value;
      }),
  };
}

/** The rate of payments that are made up. */
export function trafficControls() {
  const rates = choices(
    'traffic',
    RATES.map((rate) => [rate, rate === 0 ? 'none' : `${rate}`]),
    (paymentsPerSecond) => act('PUT', '/simulator/traffic', { paymentsPerSecond }),
  );
  byId('traffic').append(rates.element);
  return ({ simulation }) => {
    byId('simulation').hidden = simulation == null;
    if (simulation) rates.show(simulation.paymentsPerSecond);
  };
}

/** Slow and failing, for one processor. */
export function behaviourControls(name, index) {
  const path = `/simulator/processors/${encodeURIComponent(name)}`;
  const delays = choices(`delay-${index}`, DELAYS, (delay) => act('PUT', path, { delay }));
  const failing = h('input', {
    type: 'checkbox',
    id: `failing-${name}`,
    onchange: () => act('PUT', path, { failure: failing.checked }),
  });
  const element = h(
    'fieldset',
    { class: 'behaviour' },
    h('legend', { class: 'unseen' }, `Simulation of ${name}`),
    h('div', { class: 'row' }, h('span', { class: 'label' }, 'Simulated delay'), delays.element),
    h(
      'label',
      { class: 'check', for: `failing-${name}` },
      failing,
      'Simulated failure of every payment',
    ),
  );
  const update = (behaviour) => {
    element.disabled = behaviour == null;
    mark(element, 'data-answers', behaviour != null);
    if (!behaviour) return;
    delays.show(behaviour.delay);
    failing.checked = behaviour.failure;
  };
  return { element, update };
}
