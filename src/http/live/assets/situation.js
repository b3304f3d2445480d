// What is going on, in one sentence.

import { calmSpan, count, span } from './format.js';

/** A processor that takes so many milliseconds is slow. */
const SLOW_MS = 500;

/** Payments that wait for so many milliseconds are worth a word. */
const OLD_MS = 5000;

const list = (names) => (names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`);

/** processor a is; processors a and b are */
const processorsNamed = (names) => `processor${names.length > 1 ? 's' : ''} ${list(names)} ${names.length > 1 ? 'are' : 'is'}`;

/** Who has which trouble, in words. */
function troubles(processors) {
  const kinds = [...new Set(processors.map(trouble))];
  return kinds.map((kind) => `${processorsNamed(processors.filter((each) => trouble(each) === kind).map(({ name }) => name))} ${kind}`).join(', ');
}

/** Why a processor is not used, or null if it is. */
export function trouble(processor) {
  if (!processor.enabled) return 'switched off';
  if (processor.breaker.state === 'open') return 'failing';
  if (processor.breaker.state === 'half_open') return 'coming back';
  if (processor.throttledForMs > 0) return 'throttling us';
  return null;
}

/** Level (`calm`, `watch`, `alarm`), title and text. */
export function situation(snapshot) {
  const { router, deployment, databaseAwayMs } = snapshot;
  if (databaseAwayMs != null) {
    return {
      level: 'alarm',
      title: 'The database does not answer.',
      text: `Since ${calmSpan(Math.max(1000, databaseAwayMs))}. Clients get 503 and post again; what was accepted is in the database. Figures of the deployment are the last known.`,
    };
  }
  const out = router.processors.filter((processor) => ['switched off', 'failing'].includes(trouble(processor)));
  const used = router.processors.filter((processor) => !out.includes(processor)).map((processor) => processor.name);
  const census = deployment?.census;
  const waiting = census?.queued.value ?? 0;
  const oldMs = (census?.oldestAgeSeconds ?? 0) * 1000;
  const queue = waiting > 0 && oldMs > OLD_MS ? ` ${capital(about(census.queued))} ${census.queued.value === 1 ? 'waits' : 'wait, the oldest'} for ${calmSpan(oldMs)}.` : '';
  const named = troubles(out);
  if (used.length === 0) {
    const off = out.every((processor) => !processor.enabled);
    return {
      level: 'alarm',
      title: off ? 'Every processor is switched off.' : 'No processor takes payments.',
      text: off ? `Payments are accepted and wait.${queue}` : `${capital(named)}. Payments are accepted and wait; each is probed with single payments.${queue}`,
    };
  }
  const back = router.processors.filter((processor) => trouble(processor) === 'coming back').map((processor) => processor.name);
  if (out.length > 0) {
    return { level: 'watch', title: `${capital(named)}.`, text: `Payments go to ${list(used)}.${queue}` };
  }
  if (back.length > 0) {
    return { level: 'watch', title: `${capital(processorsNamed(back))} coming back.`, text: `A few payments at a time are tried there.${queue}` };
  }
  const slow = router.processors.filter((processor) => used.includes(processor.name) && processor.latencyMs >= SLOW_MS);
  if (slow.length > 0) {
    const times = slow.map(({ name, latencyMs: ms }) => (slow.length > 1 ? `${span(ms)} at ${name}` : span(ms)));
    return { level: 'watch', title: `${capital(processorsNamed(slow.map(({ name }) => name)))} slow.`, text: `A payment takes ${list(times)}.${queue}` };
  }
  if (queue) return { level: 'watch', title: 'Payments wait.', text: queue.trim() };
  return { level: 'calm', title: 'All is well.', text: `${used.length > 1 ? 'All processors take' : `Processor ${used[0]} takes`} payments.` };
}

const about = (number) => `${number.exact ? '' : 'about '}${count(number.value)} payment${number.value === 1 ? '' : 's'}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
