// Payments that no processor takes: why, and what to do about it.

import { act, asked, call, toast } from './api.js';
import { byId, h, say } from './element.js';
import { count, moment, money } from './format.js';

export function deadLetters() {
  const body = byId('dead-letters-body');
  const retryAll = byId('retry-all');
  let seen = null;
  let letters = [];
  let drawn = null;

  const draw = (total) => {
    const key = JSON.stringify([letters, total]);
    if (key === drawn) return;
    drawn = key;
    const focused = document.activeElement;
    const wasHere = byId('dead-letters').contains(focused);
    retryAll.hidden = letters.length < 2;
    say(
      retryAll,
      total > letters.length
        ? `Retry these ${count(letters.length)}`
        : `Retry all ${count(letters.length)}`,
    );
    body.replaceChildren(
      ...(letters.length === 0
        ? [
            h(
              'p',
              { class: 'empty' },
              'None. A payment comes here when a processor refuses it for good.',
            ),
          ]
        : [
            h('ul', { class: 'letters' }, letters.map(row)),
            ...(total > letters.length
              ? [
                  h(
                    'p',
                    { class: 'muted' },
                    `The newest ${count(letters.length)} of ${count(total)}.`,
                  ),
                ]
              : []),
          ]),
    );
    // Whoever pressed a button that is gone goes on at its successor, not at the top of the page.
    if (wasHere && (!focused.isConnected || focused.hidden)) {
      (
        body.querySelector(`[data-key="${focused.dataset.key}"]`) ??
        body.querySelector('button') ??
        byId('dead-letters-title')
      ).focus();
    }
  };

  const row = (letter) => {
    const id = letter.correlationId;
    const button = (text, kind, action) =>
      h(
        'button',
        {
          type: 'button',
          class: `quiet ${kind}`,
          'data-key': `${kind}-${id}`,
          'aria-label': `${text} ${id}`,
          onclick: action,
        },
        text,
      );
    return h(
      'li',
      { 'data-letter': id },
      h(
        'div',
        { class: 'letter' },
        h('p', { class: 'letter-head' }, h('code', {}, id), h('b', {}, money(letter.amount))),
        h('p', { class: 'why' }, letter.reason),
        h(
          'p',
          { class: 'muted' },
          `${letter.processor} · ${letter.attempt} attempt${letter.attempt === 1 ? '' : 's'} · ${moment(letter.diedAt)}`,
          letter.requestedAt ? ` · a retry asks ${letter.processor} only` : '',
        ),
      ),
      h(
        'div',
        { class: 'actions' },
        button('Retry', 'retry', () => retry([id])),
        button('Discard', 'danger', () => discard(letter)),
      ),
    );
  };

  const reload = async (total) => {
    try {
      letters = await call('GET', '/dead-letters');
      draw(total ?? letters.length);
    } catch (error) {
      seen = null;
      if (error.status !== 503 && error.status !== 0) toast(error.message, 'bad');
    }
  };
  const after =
    (verb) =>
    ({ done, missing }) =>
      [
        done.length > 0 ? `${done.length} payment${done.length === 1 ? '' : 's'} ${verb}.` : '',
        missing.length > 0 ? `${missing.length} no longer dead.` : '',
      ]
        .filter(Boolean)
        .join(' ');
  const retry = async (ids) => {
    if (await act('POST', '/dead-letters/retry', { ids }, after('back in the queue')))
      await reload();
  };
  const discard = async ({ correlationId, amount }) => {
    const why = await asked({
      title: 'Discard this payment?',
      text: `Payment ${correlationId} of ${money(amount)} will be forgotten. It is not charged, and this cannot be taken back.`,
      no: 'Keep it',
      yes: 'Discard it',
    });
    if (
      why &&
      (await act(
        'POST',
        '/dead-letters/discard',
        { ids: [correlationId], ...why },
        after('discarded'),
      ))
    )
      await reload();
  };
  retryAll.addEventListener('click', () =>
    retry(letters.map(({ correlationId }) => correlationId)),
  );

  return ({ deployment, databaseAwayMs }) => {
    const known = deployment != null && databaseAwayMs == null;
    body.dataset.known = known;
    say(
      byId('dead-letters-age'),
      known ? '' : 'Unknown: the database does not answer. What is listed is as it was.',
    );
    if (!known) return;
    const total = deployment.queue.deadLetters.value;
    const now = `${total} ${deployment.newestDeadLetterAt}`;
    if (now === seen) return;
    seen = now;
    reload(total);
  };
}
