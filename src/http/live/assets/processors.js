// One card per processor: whether it is used and why, what the router believes of it, and the switches.

import { act } from './api.js';
import { densityCurve } from './density.js';
import { byId, freshId, h, mark, s, say } from './element.js';
import { calmSpan, none, percent, shortSpan, span } from './format.js';
import { key, lookOf } from './series.js';
import { behaviourControls } from './simulation.js';

/** Seconds over which a share is told. */
const SHARE_SECONDS = 60;
const STATES = { closed: 'Taking payments', open: 'Breaker open', half_open: 'Half open', off: 'Switched off' };

/** Draws the cards; `simulated`: whether the processors can be made slow or failing. */
export function processorCards() {
  let cards = [];
  return (snapshot) => {
    const { processors } = snapshot.router;
    const simulated = snapshot.simulation != null;
    const key = JSON.stringify([processors.map(({ name }) => name), simulated]);
    if (cards.key !== key) {
      cards = processors.map(({ name, fee }, index) => card(name, fee, index, simulated));
      cards.key = key;
      byId('processors').replaceChildren(...cards.map(({ element }) => element));
    }
    cards.forEach(({ update }, index) => update(processors[index], snapshot));
  };
}

function card(name, fee, index, simulated) {
  const look = lookOf(index);
  const title = freshId('processor');
  const badge = h('span', { class: 'badge' });
  const reason = h('p', { class: 'reason muted' });
  const strip = breakerStrip();
  const curve = densityCurve(look.kind);
  const facts = {
    share: fact('Share, last minute'), chance: fact('Chance to charge'), latency: fact('Answers in'),
    flight: fact('In flight here'), health: fact('Health, by its word'), utility: fact('Utility now'),
  };
  const bar = h('meter', { min: 0, value: 0, 'aria-label': `Slots of ${name} in use` });
  facts.flight.value.append(bar);
  // The name of a switch stays when its state changes; who sees it reads the state.
  const use = h('span', { 'aria-hidden': 'true' });
  const toggle = h('button', { type: 'button', class: 'switch', role: 'switch', id: `switch-${name}`, 'aria-labelledby': `${title} ${title}-use` },
    h('span', { class: 'knob', 'aria-hidden': 'true' }), h('span', { class: 'unseen', id: `${title}-use` }, 'In use'), use);
  const show = (enabled) => {
    mark(toggle, 'aria-checked', enabled);
    say(use, enabled ? 'In use' : 'Off');
  };
  toggle.addEventListener('click', async () => {
    const enable = toggle.getAttribute('aria-checked') !== 'true';
    toggle.setAttribute('aria-busy', 'true');
    const done = await act('POST', `/routing/${encodeURIComponent(name)}/${enable ? 'enable' : 'disable'}`, undefined,
      enable ? `${name} is in use again, on all instances.` : `${name} is switched off on all instances until you switch it on.`);
    if (done) show(enable);
    toggle.removeAttribute('aria-busy');
  });
  const behaviour = simulated ? behaviourControls(name, index) : null;
  const element = h('article', { class: `panel processor ${look.kind}`, 'aria-labelledby': title, 'data-processor': name },
    h('div', { class: 'panel-head' },
      h('h2', { id: title }, key(look), h('span', {}, name, ' ', h('span', { class: 'fee' }, `${percent(fee, 2)} fee`))),
      toggle),
    h('div', { class: 'state-line' }, badge, reason),
    h('div', {}, strip.caption, strip.svg),
    h('dl', { class: 'facts' }, Object.values(facts).map((each) => each.element)),
    h('figure', {}, curve.svg, h('figcaption', { class: 'muted' }, 'Belief in its chance to charge, from the last seconds')),
    behaviour?.element);

  const update = (processor, { columns, simulation, router }) => {
    const state = processor.enabled ? processor.breaker.state : 'off';
    mark(element, 'data-state', state);
    mark(badge, 'data-state', state);
    say(badge, STATES[state]);
    say(reason, processor.enabled ? because(processor) : 'by an operator, on all instances');
    strip.update(columns.breakers[index]);
    curve.update(processor.posteriorSuccesses, processor.posteriorFailures);
    const settled = columns.settled.map((column) => column.slice(-SHARE_SECONDS).reduce((sum, value) => sum + value, 0));
    const all = settled.reduce((sum, value) => sum + value, 0);
    facts.share.tell(all ? percent(settled[index] / all) : none);
    facts.chance.tell(percent(processor.successProbability));
    facts.latency.tell(span(processor.latencyMs));
    facts.flight.tell(`${processor.inFlight} of ${processor.cap}`);
    mark(bar, 'max', Math.max(1, processor.cap));
    mark(bar, 'value', processor.inFlight);
    facts.health.tell(health(processor.health));
    facts.utility.tell(processor.utility == null ? none : processor.utility.toFixed(3));
    if (!toggle.hasAttribute('aria-busy')) show(processor.enabled);
    behaviour?.update(simulation?.processors[index], router);
  };
  return { element, update };
}

function fact(label) {
  const text = h('span', {});
  const value = h('dd', {}, text);
  return { element: h('div', {}, h('dt', {}, label), value), value, tell: (told) => say(text, told) };
}

function because({ breaker, throttledForMs: throttled }) {
  if (throttled > 0) return `it asked us to wait for ${span(throttled)}`;
  if (breaker.reason === 'started') return 'nothing wrong since the start';
  const longer = breaker.outageMs != null && breaker.outageMs - breaker.forMs > 1500;
  const outage = !longer ? '' : `; out for ${calmSpan(breaker.outageMs)}`;
  return `${breaker.reason}, ${shortSpan(breaker.forMs)} ago${outage}`;
}

function health(health) {
  if (!health) return 'nothing yet';
  const least = health.minResponseTimeMs > 0 ? `, at least ${span(health.minResponseTimeMs)}` : '';
  return `${health.failing ? 'failing' : 'well'}${least}, ${calmSpan(health.ageMs)} ago`;
}

/** How high a state stands in the strip of a breaker: the worse, the higher. */
const HEIGHTS = { closed: 2, half_open: 5, open: 8 };

/** The states of the breaker over the last two minutes, as a strip of heights and colours. */
function breakerStrip() {
  const strip = s('svg', { class: 'strip', viewBox: '0 0 120 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const caption = h('p', { class: 'caption muted' });
  const update = (states) => {
    const runs = [];
    states.forEach((state, place) => {
      const last = runs.at(-1);
      if (last?.state === state) last.length += 1;
      else runs.push({ state, place, length: 1 });
    });
    strip.replaceChildren(...runs.map(({ state, place, length }) => {
      const height = HEIGHTS[state] ?? 0;
      return s('rect', { x: place, width: length, y: 8 - height, height, class: state ?? 'unknown' });
    }));
    const open = states.filter((state) => state === 'open').length;
    say(caption, `Breaker: open for ${open} of the last ${states.length} s`);
  };
  return { svg: strip, caption, update };
}
