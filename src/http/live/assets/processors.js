// One card per processor: whether it is used and why, what the router believes of it, and the
// switches.

import { act, asked, operator } from './api.js';
import { densityCurve } from './density.js';
import { byId, freshId, h, mark, s, say } from './element.js';
import { calmSpan, moment, none, percent, shortSpan, span, unknown } from './format.js';
import { key as keyOf, lookOf } from './series.js';
import { behaviourControls } from './simulation.js';

/** Seconds over which a share is told. */
const SHARE_SECONDS = 60;
const STATES = {
  closed: 'Taking payments',
  open: 'Breaker open',
  half_open: 'Half open',
  off: 'Switched off',
};

const BELIEF = 'Belief in its chance to charge, from the last seconds';

/** Draws the cards; `simulated`: whether the processors can be made slow or failing. */
export function processorCards() {
  let cards = [];
  return (snapshot) => {
    const { processors } = snapshot.router;
    const simulated = snapshot.simulation != null;
    const key = JSON.stringify([processors.map(({ name, fee }) => [name, fee]), simulated]);
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
  const switched = h('p', { class: 'switched muted' });
  const strip = breakerStrip();
  const curve = densityCurve(look.kind);
  const belief = h('figcaption', { class: 'muted' });
  const facts = {
    share: fact('Share, last minute'),
    chance: fact('Chance to charge'),
    latency: fact('Answers in'),
    flight: fact('In flight here'),
    health: fact('Health, by its word'),
    utility: fact('Utility now'),
  };
  const bar = h('meter', { min: 0, value: 0, 'aria-label': `Slots of ${name} in use` });
  facts.flight.value.append(bar);
  // The name of a switch stays when its state changes; who sees it reads the state.
  const use = h('span', { 'aria-hidden': 'true' });
  const toggle = h(
    'button',
    {
      type: 'button',
      class: 'switch',
      role: 'switch',
      id: `switch-${name}`,
      'aria-labelledby': `${title} ${title}-use`,
    },
    h('span', { class: 'knob', 'aria-hidden': 'true' }),
    h('span', { class: 'unseen', id: `${title}-use` }, 'In use'),
    use,
  );
  const show = (enabled) => {
    mark(toggle, 'aria-checked', enabled);
    say(use, enabled ? 'In use' : 'Off');
  };
  toggle.addEventListener('click', async () => {
    const enable = toggle.getAttribute('aria-checked') !== 'true';
    const why = enable
      ? { reason: 'put back into use on the page', by: operator() }
      : await asked({
          title: `Switch ${name} off?`,
          text: `No instance sends it anything new until it is switched on again. What it may have charged stays with it.`,
          no: 'Leave it on',
          yes: 'Switch it off',
          needsReason: true,
        });
    if (!why) return;
    toggle.setAttribute('aria-busy', 'true');
    const done = await act(
      'POST',
      `/routing/${encodeURIComponent(name)}/${enable ? 'enable' : 'disable'}`,
      why,
      enable
        ? `${name} is in use again, on all instances.`
        : `${name} is switched off on all instances until you switch it on.`,
    );
    if (done) show(enable);
    toggle.removeAttribute('aria-busy');
  });
  const behaviour = simulated ? behaviourControls(name, index) : null;
  const element = h(
    'article',
    { class: `panel processor ${look.kind}`, 'aria-labelledby': title, 'data-processor': name },
    h(
      'div',
      { class: 'panel-head' },
      h(
        'h2',
        { id: title },
        keyOf(look),
        h('span', {}, name, ' ', h('span', { class: 'fee' }, `${percent(fee, 2)} fee`)),
      ),
      toggle,
    ),
    h('div', { class: 'state-line' }, badge, reason),
    switched,
    h('div', {}, strip.caption, strip.svg),
    h(
      'dl',
      { class: 'facts' },
      Object.values(facts).map((each) => each.element),
    ),
    h('figure', {}, curve.element, belief),
    behaviour?.element,
  );

  const update = (processor, { columns, simulation, router, deployment, databaseAwayMs }) => {
    const state = processor.enabled ? processor.breaker.state : 'off';
    mark(element, 'data-state', state);
    mark(badge, 'data-state', state);
    say(badge, STATES[state]);
    say(reason, processor.enabled ? because(processor) : 'on all instances');
    const last = deployment?.switches.find((each) => each.processor === name);
    say(switched, last?.switchedAt ? whoSwitched(last) : '');
    switched.hidden = !last?.switchedAt;
    strip.update(columns.breakers[index]);
    const isKnown = processor.successProbability != null;
    mark(element, 'data-asked', isKnown);
    if (isKnown) curve.update(processor.posteriorSuccesses, processor.posteriorFailures);
    curve.element.toggleAttribute('hidden', !isKnown);
    say(belief, isKnown ? BELIEF : notAsked(processor));
    const settled = columns.settled.map((column) =>
      column.slice(-SHARE_SECONDS).reduce((sum, value) => sum + value, 0),
    );
    const all = settled.reduce((sum, value) => sum + value, 0);
    facts.share.tell(databaseAwayMs != null ? unknown : all ? percent(settled[index] / all) : none);
    facts.chance.tell(isKnown ? percent(processor.successProbability) : unknown);
    facts.latency.tell(isKnown ? span(processor.latencyMs) : unknown);
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
  return {
    element: h('div', {}, h('dt', {}, label), value),
    value,
    tell: (told) => say(text, told),
  };
}

/** Why nothing is known of its chance. */
const notAsked = ({ askedMsAgo }) =>
  askedMsAgo == null
    ? 'No payment of this instance went there yet, so nothing is known of its chance to charge.'
    : `No payment of this instance went there for ${calmSpan(askedMsAgo)}, so nothing is known of its chance to charge.`;

/** Who switched it last, when and why. */
export const whoSwitched = ({ enabled, switchedBy, switchedAt, reason }) =>
  `Switched ${enabled ? 'on' : 'off'} by ${switchedBy}, ${moment(switchedAt)}: ${reason}`;

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

/** Runs of equal states. */
export function runs(states) {
  const found = [];
  states.forEach((state, place) => {
    const last = found.at(-1);
    if (last && last.state === state) last.length += 1;
    else found.push({ state, place, length: 1 });
  });
  return found;
}

/** How high a state stands in the strip of a breaker: the worse, the higher. */
const HEIGHTS = { closed: 2, off: 3, half_open: 5, open: 8 };

/** A strip of heights and colours; `told`: what the title of a run of equal states says, where it has one. */
export function strip(states, told = null) {
  return runs(states).map((run) => {
    const height = HEIGHTS[run.state] ?? 0;
    return s(
      'rect',
      { x: run.place, width: run.length, y: 8 - height, height, class: run.state ?? 'unknown' },
      told && s('title', {}, told(run)),
    );
  });
}

/** The states of the breaker over the last two minutes. */
function breakerStrip() {
  const svg = s('svg', {
    class: 'strip',
    viewBox: '0 0 120 8',
    preserveAspectRatio: 'none',
    'aria-hidden': 'true',
  });
  const caption = h('p', { class: 'caption muted' });
  const update = (states) => {
    svg.replaceChildren(...strip(states));
    const open = states.filter((state) => state === 'open').length;
    say(caption, `Breaker: open for ${open} of the last ${states.length} s`);
  };
  return { svg, caption, update };
}
