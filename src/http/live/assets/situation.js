// The headline: what wants attention, the most urgent first. It comes from one list, the service's
// own, which is that of `payment-proxy status`, too. Only that nothing is heard of the service is
// for this page to say.

import { calmSpan, count, span } from './format.js';

/** A processor that takes so many milliseconds is slow. */
const SLOW_MS = 500;

/** Payments that wait for so many milliseconds are worth a word. */
const OLD_MS = 5000;

/** After so many milliseconds without news that is the headline. */
export const SILENT_MS = 3000;

const LEVELS = { alarm: 'alarm', watch: 'watch' };

const list = (names) =>
  names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;

/** processor a is; processors a and b are */
const processorsNamed = (names) =>
  `processor${names.length > 1 ? 's' : ''} ${list(names)} ${names.length > 1 ? 'are' : 'is'}`;

/** Why a processor is not used, or null if it is. */
export function trouble(processor) {
  if (!processor.enabled) return 'switched off';
  if (processor.breaker.state === 'open') return 'failing';
  if (processor.breaker.state === 'half_open') return 'coming back';
  if (processor.throttledForMs > 0) return 'throttling us';
  return null;
}

/** The headline of an item; one of an older program has none. */
const titleOf = ({ title, kind }) => title || `${capital(kind.replaceAll('_', ' '))}.`;

/** An item in words: what is, and what to do about it. */
export function sentence({ text, advice }, title) {
  const parts = [`${capital(text)}.`, `${capital(advice)}.`];
  return parts.filter((part) => part !== title).join(' ');
}

/**
 * Level (`calm`, `watch`, `alarm`), title and text, and the items of the list: the first is what the title is about.
 * `items`: what wants attention. `snapshot`: the last one, or null. `silentMs`: for how long nothing was heard.
 */
export function situation(items, snapshot, silentMs) {
  if (silentMs >= SILENT_MS) {
    return {
      level: 'alarm',
      title: 'No news.',
      items: [],
      text: `This instance has said nothing for ${calmSpan(silentMs)}: it has ended, or the way to it is cut. What is shown is older than that.`,
    };
  }
  const [first] = items;
  if (first) {
    const text = [sentence(first, titleOf(first)), snapshot ? goingOn(snapshot) : '']
      .filter(Boolean)
      .join(' ');
    return { level: LEVELS[first.severity] ?? 'watch', title: titleOf(first), text, items };
  }
  // An empty list of a service that has not read anything yet does not say that all is well.
  if (snapshot && !snapshot.deployment)
    return {
      level: 'watch',
      title: 'Nothing is known yet.',
      text: 'The database has not been read.',
      items,
    };
  return { level: 'calm', title: 'All is well.', text: snapshot ? goingOn(snapshot) : '', items };
}

/** What the router does about it, in a sentence or two. */
function goingOn({ router, deployment, databaseAwayMs }) {
  if (databaseAwayMs != null)
    return `That is so since ${calmSpan(Math.max(1000, databaseAwayMs))}.`;
  const named = (test) => router.processors.filter(test).map(({ name }) => name);
  const used = named((each) => !['switched off', 'failing'].includes(trouble(each)));
  const back = named((each) => trouble(each) === 'coming back');
  const slow = router.processors.filter(
    (each) =>
      used.includes(each.name) && each.askedMsAgo < SLOW_MS * 60 && each.latencyMs >= SLOW_MS,
  );
  const parts = [];
  if (used.length > 0 && used.length < router.processors.length)
    parts.push(`Payments go to ${list(used)}.`);
  else if (used.length > 0)
    parts.push(
      `${used.length > 1 ? 'All processors take' : `Processor ${used[0]} takes`} payments.`,
    );
  if (back.length > 0)
    parts.push(
      `${capital(processorsNamed(back))} coming back: a few payments at a time are tried there.`,
    );
  if (slow.length > 0)
    parts.push(
      `${capital(processorsNamed(slow.map(({ name }) => name)))} slow: a payment takes ${list(slow.map(({ name, latencyMs: ms }) => (slow.length > 1 ? `${span(ms)} at ${name}` : span(ms))))}.`,
    );
  const queue = deployment?.queue;
  const oldMs = (queue?.oldestAgeSeconds ?? 0) * 1000;
  if (queue?.queued.value > 0 && oldMs > OLD_MS) {
    parts.push(
      `${capital(about(queue.queued))} ${queue.queued.value === 1 ? 'waits' : 'wait, the oldest'} for ${calmSpan(oldMs)}.`,
    );
  }
  return parts.join(' ');
}

const about = (number) =>
  `${number.exact ? '' : 'about '}${count(number.value)} payment${number.value === 1 ? '' : 's'}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
