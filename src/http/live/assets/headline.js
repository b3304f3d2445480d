// The headline on the page and in the title of the tab, and how old is what is shown.

import { byId, h, mark, say, spelled } from './element.js';
import { calmSpan } from './format.js';
import { sentence, situation } from './situation.js';

const NAME = 'payment-proxy';

/** What is shown is told to be old from so many milliseconds on. */
const FRESH_MS = 2000;

/** Returns what draws it: the items, the last snapshot or null, and the milliseconds since the last word. */
export function headline() {
  const more = byId('situation-more');
  let drawn = null;
  return (items, snapshot, silentMs) => {
    const now = situation(items, snapshot, silentMs);
    mark(byId('situation'), 'data-level', now.level);
    mark(byId('situation'), 'data-kind', now.items[0]?.kind ?? '');
    say(byId('situation-title'), now.title);
    spelled(byId('situation-text'), now.text);
    const title = now.level === 'calm' ? NAME : `${now.title} ${NAME}`;
    if (document.title !== title) document.title = title;
    const others = now.items.slice(1);
    const key = JSON.stringify(others);
    if (key === drawn) return;
    drawn = key;
    more.hidden = others.length === 0;
    more.replaceChildren(
      ...others.map((item) => {
        const text = h('span', {});
        spelled(text, sentence(item, item.title));
        return h(
          'li',
          { 'data-kind': item.kind, 'data-level': item.severity },
          item.title ? h('strong', {}, item.title) : null,
          ' ',
          text,
        );
      }),
    );
  };
}

/** Says how old the figures are: those of the deployment, or where it has none those of the instance. */
export function age(snapshot, silentMs) {
  const ms = (snapshot.deploymentAgeMs ?? 0) + silentMs;
  mark(byId('age'), 'data-old', ms >= FRESH_MS);
  say(byId('age'), snapshot.deployment ? `Figures are ${calmSpan(ms)} old` : 'No figures yet');
}
