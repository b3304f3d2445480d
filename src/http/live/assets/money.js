// What was settled, what it cost, and what it would have cost elsewhere.

import { byId, h, mark, say } from './element.js';
import { count, money, percent } from './format.js';
import { key, lookOf } from './series.js';

export function moneyPanel() {
  const body = byId('money-body');
  let rows = null;
  return ({ deployment, router }) => {
    if (!deployment) return;
    const now = deployment.money;
    const key = JSON.stringify(now.alternatives.map(({ processor }) => processor));
    if (rows?.key !== key) {
      rows = build(now, router.processors);
      rows.key = key;
      body.replaceChildren(rows.element);
    }
    rows.update(now);
  };
}

function build(now, processors) {
  const line = (label, id, note) => {
    const value = h('dd', { id });
    const small = h('span', { class: 'muted' }, note ?? '');
    return { element: h('div', {}, h('dt', {}, label, ' ', small), value), value, small };
  };
  const gross = line('Settled', 'money-gross');
  const fees = line('Fees paid', 'money-fees');
  const net = line('Left after fees', 'money-net');
  const bar = (label, kind, id, sign) => {
    const value = h('span', { class: 'amount', id });
    const note = h('span', { class: 'muted note' });
    const length = h('span', { class: `length ${kind}` });
    return { element: h('li', {}, h('div', { class: 'what' }, h('span', { class: 'signed' }, sign, label), value), h('div', { class: 'track', 'aria-hidden': 'true' }, length), note), value, note, length };
  };
  const paid = bar('as it was routed', 'paid', 'fees-paid');
  const others = now.alternatives.map(({ processor }) => {
    const index = processors.findIndex(({ name }) => name === processor);
    const look = lookOf(index);
    return bar(`everything at ${processor}`, look.kind, `fees-at-${processor}`, key(look));
  });
  const saved = h('p', { class: 'saved' });
  const element = h('div', {},
    h('dl', { class: 'sums' }, [gross, fees, net].map((each) => each.element)),
    saved,
    h('h3', {}, 'Fees, and what they would have been'),
    h('ul', { class: 'bars' }, [paid, ...others].map((each) => each.element)));

  const update = (now) => {
    say(gross.value, money(now.gross));
    say(gross.small, `${count(now.payments)} payment${now.payments === 1 ? '' : 's'}`);
    say(fees.value, money(now.fees));
    const known = Number(now.fees) + Number(now.net);
    const unknown = now.withoutFee ? `; of ${count(now.withoutFee)} the fee is not known` : '';
    say(fees.small, known ? `${percent(Number(now.fees) / known, 2)} of it${unknown}` : unknown.slice(2));
    say(net.value, money(now.net));
    const most = Math.max(Number(now.fees), ...now.alternatives.map(({ fees }) => Number(fees))) || 1;
    const show = (bar, fees, note) => {
      say(bar.value, money(fees));
      bar.length.style.width = `${(Number(fees) / most) * 100}%`;
      say(bar.note, note);
    };
    show(paid, now.fees, '');
    now.alternatives.forEach(({ fees, saved }, index) => {
      const difference = Number(saved);
      show(others[index], fees, difference === 0 ? 'no difference' : difference > 0 ? `${money(saved)} more` : `${money(saved.replace('-', ''))} less, had it always been there`);
    });
    const dearest = now.alternatives.reduce((dearest, other) => (Number(other.fees) > Number(dearest.fees) ? other : dearest));
    mark(saved, 'data-any', Number(dearest.saved) > 0);
    say(saved, Number(dearest.saved) > 0 ? `${money(dearest.saved)} saved against paying ${dearest.processor} for everything` : 'Nothing saved yet');
  };
  return { element, update };
}
