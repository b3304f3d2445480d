// What was settled, what it cost, and what it would have cost elsewhere.

import { cents, share } from './decimal.js';
import { byId, h, mark, say } from './element.js';
import { calmSpan, count, money, percent } from './format.js';
import { key as keyOf, lookOf } from './series.js';

export function moneyPanel() {
  const body = byId('money-body');
  let rows = null;
  return ({ deployment, deploymentAgeMs, databaseAwayMs, router }) => {
    if (!deployment) {
      rows = null;
      say(body, 'Unknown: the database has not been read yet.');
      return;
    }
    // For other processors the page makes another panel.
    if (rows == null) {
      rows = build(deployment.money, router.processors);
      body.replaceChildren(rows.element);
    }
    rows.update(deployment.money);
    say(
      rows.old,
      databaseAwayMs == null
        ? ''
        : `As it was ${calmSpan(deploymentAgeMs)} ago: the database does not answer.`,
    );
    rows.old.hidden = databaseAwayMs == null;
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
    return {
      element: h(
        'li',
        {},
        h('div', { class: 'what' }, h('span', { class: 'signed' }, sign, label), value),
        h('div', { class: 'track', 'aria-hidden': 'true' }, length),
        note,
      ),
      value,
      note,
      length,
    };
  };
  const paid = bar('as it was routed', 'paid', 'fees-paid');
  const others = now.alternatives.map(({ processor }) => {
    const index = processors.findIndex(({ name }) => name === processor);
    const look = lookOf(index);
    return bar(`everything at ${processor}`, look.kind, `fees-at-${processor}`, keyOf(look));
  });
  const old = h('p', { class: 'muted', hidden: true });
  const saved = h('p', { class: 'saved' });
  const element = h(
    'div',
    {},
    old,
    h(
      'dl',
      { class: 'sums' },
      [gross, fees, net].map((each) => each.element),
    ),
    saved,
    h('h3', {}, 'Fees, and what they would have been'),
    h(
      'ul',
      { class: 'bars' },
      [paid, ...others].map((each) => each.element),
    ),
  );

  const update = (now) => {
    say(gross.value, money(now.gross));
    say(gross.small, `${count(now.payments)} payment${now.payments === 1 ? '' : 's'}`);
    say(fees.value, money(now.fees));
    const known = cents(now.fees) + cents(now.net);
    const unknown = now.withoutFee ? `; of ${count(now.withoutFee)} the fee is not known` : '';
    say(
      fees.small,
      known ? `${percent(share(cents(now.fees), known), 2)} of it${unknown}` : unknown.slice(2),
    );
    say(net.value, money(now.net));
    const most = [now, ...now.alternatives]
      .map(({ fees }) => cents(fees))
      .reduce((one, other) => (one > other ? one : other));
    const show = (bar, fees, note) => {
      say(bar.value, money(fees));
      // Not as an attribute, which the page's policy forbids.
      bar.length.style.width = `${share(cents(fees), most) * 100}%`;
      say(bar.note, note);
    };
    show(paid, now.fees, '');
    now.alternatives.forEach(({ fees, saved }, index) => {
      const difference = cents(saved);
      show(
        others[index],
        fees,
        difference === 0n
          ? 'no difference'
          : difference > 0n
            ? `${money(saved)} more`
            : `${money(saved.replace('-', ''))} less, had it always been there`,
      );
    });
    const dearest = now.alternatives.reduce((dearest, other) =>
      cents(other.fees) > cents(dearest.fees) ? other : dearest,
    );
    const any = cents(dearest.saved) > 0n;
    mark(saved, 'data-any', any);
    say(
      saved,
      any
        ? `${money(dearest.saved)} saved against paying ${dearest.processor} for everything`
        : 'Nothing saved yet',
    );
  };
  return { element, update, old };
}
