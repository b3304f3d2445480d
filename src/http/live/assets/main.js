// Puts the parts of the page together.

import { call, isSignedIn, toast } from './api.js';
import { deadLetters } from './dead_letters.js';
import { decisionList } from './decisions.js';
import { byId, mark, say } from './element.js';
import { follow } from './feed.js';
import { figures } from './figures.js';
import { rate, shortCount, shortSpan } from './format.js';
import { age, headline } from './headline.js';
import { whatWas } from './history.js';
import { inDoubt } from './in_doubt.js';
import { moneyPanel } from './money.js';
import { processorCards } from './processors.js';
import { lookOf } from './series.js';
import { trafficControls } from './simulation.js';
import { SILENT_MS } from './situation.js';
import { TimeChart } from './time_chart.js';

/** Milliseconds between two looks whether there is news. */
const TICK_MS = 500;
/** By so many milliseconds the clocks of a browser and an instance may drift apart from one snapshot to the next. */
const DRIFT_MS = 1;

const LINK = {
  connecting: 'Connecting',
  live: 'Live',
  lost: 'Connection lost, trying again',
  paused: 'Paused',
  away: 'Live, database away',
};

/** What is there only for who is signed in. */
const SIGNED_IN = ['skip', 'sign-out', 'live'];

let stopFollowing = null;
/** What is drawn with each snapshot, and for which processors. */
let draw = null;
/** The last snapshot, and what wants attention by it, or by what was heard while the tab was hidden. */
let last = null;
let attention = null;
/** When the last snapshot came, and how long it had been under way. */
let cameAt = 0;
let lagMs = 0;
/** Since when the next word is waited for; null: it is not due. */
let waitingSince = null;
/** The shortest way that a snapshot took on this connection, with the difference of both clocks. */
let shortestWay = Infinity;
let tick = 0;
let due = false;
const tell = headline();

/** A link that `make run` prints carries the token behind the #, which no browser sends to anybody. */
function tokenOfLink() {
  const [, token] = location.hash.match(/^#token=(.*)$/) ?? [];
  if (token === undefined) return null;
  history.replaceState(null, '', location.pathname);
  return decodeURIComponent(token);
}

async function start() {
  byId('sign-in-form').addEventListener('submit', (event) => {
    event.preventDefault();
    signIn(byId('token').value);
  });
  byId('token').addEventListener('input', () => byId('token').removeAttribute('aria-invalid'));
  byId('sign-out').addEventListener('click', async () => {
    try {
      await call('DELETE', '/session');
      showSignIn('');
    } catch (error) {
      toast(`Still signed in: ${error.message}`, 'bad');
    }
  });
  addEventListener('signed-out', () => showSignIn('The session is over.'));
  addEventListener('hashchange', () => {
    const token = tokenOfLink();
    if (token != null) signIn(token);
  });
  const token = tokenOfLink();
  if (token != null) await signIn(token);
  else await enter();
}

async function signIn(token) {
  try {
    await call('POST', '/session', { token });
  } catch (error) {
    const isWrong = error.status === 401;
    showSignIn(isWrong ? 'That is not the token.' : error.message);
    if (isWrong) mark(byId('token'), 'aria-invalid', true);
    return;
  }
  byId('token').value = '';
  await enter();
}

/** Shows what the session allows. */
async function enter() {
  if ((await isSignedIn()) === false) showSignIn('');
  else showLive();
}

function showSignIn(wrong) {
  stopFollowing?.();
  stopFollowing = null;
  clearInterval(tick);
  document.title = 'payment-proxy';
  for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
  for (const id of SIGNED_IN) byId(id).hidden = true;
  byId('sign-in').hidden = false;
  byId('token').removeAttribute('aria-invalid');
  byId('sign-in-wrong').textContent = wrong;
  mark(byId('link'), 'data-state', 'out');
  say(byId('link-text'), 'Signed out');
  say(byId('who'), '');
  byId('token').focus();
}

function showLive() {
  const hadFocus = byId('sign-in').contains(document.activeElement);
  byId('sign-in').hidden = true;
  for (const id of SIGNED_IN) byId(id).hidden = false;
  if (hadFocus) byId('live').focus();
  waitingSince = null;
  stopFollowing?.();
  stopFollowing = follow({
    snapshot: heard,
    attention: (items) => {
      [attention, waitingSince, lagMs] = [items, null, 0];
      tellAll();
    },
    asked: wait,
    state: (state) => link(state),
    signedOut: () => showSignIn('The session is over.'),
  });
  clearInterval(tick);
  tick = setInterval(tellAll, TICK_MS);
}

/** Takes a snapshot. What comes in faster than it can be drawn is not drawn. */
function heard(snapshot) {
  cameAt = performance.now();
  const way = performance.timeOrigin + cameAt - snapshot.atMs;
  // The clock of the instance was set back.
  if (snapshot.atMs <= last?.atMs) shortestWay = Infinity;
  shortestWay = Math.min(shortestWay + DRIFT_MS, way);
  lagMs = way - shortestWay;
  [last, attention, waitingSince] = [snapshot, snapshot.attention, cameAt];
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    show(last);
  });
}

function show(snapshot) {
  // Another instance may have other processors than the one before it.
  const key = JSON.stringify(snapshot.router.processors.map(({ name }) => name));
  if (draw?.key !== key) {
    draw?.end();
    draw = parts(snapshot);
    draw.key = key;
  }
  for (const part of draw.all) part(snapshot);
  frame(snapshot);
  tellAll();
  document.body.dataset.at = snapshot.atMs;
}

/** The headline and the age, also while nothing comes. */
function tellAll() {
  const now = performance.now();
  const silentMs = waitingSince == null ? 0 : now - waitingSince + lagMs;
  if (attention == null && silentMs < SILENT_MS) return;
  tell(attention, document.hidden ? null : last, silentMs);
  if (last) age(last, now - cameAt + lagMs);
}

/** The next word is due from now on, unless it has been for longer. */
function wait() {
  waitingSince ??= performance.now();
}

function link(state) {
  if (state === 'connecting') wait();
  // The next connection may be to another instance, whose clock is another.
  if (state !== 'live') shortestWay = Infinity;
  if (state === 'live' && byId('link').dataset.state === 'away') return;
  mark(byId('link'), 'data-state', state);
  say(byId('link-text'), LINK[state]);
  document.body.classList.toggle('stale', state === 'lost');
}

/** All that is drawn with each snapshot. The charts are made for the processors that there are. */
function parts({ router }) {
  const names = router.processors.map(({ name }) => name);
  const throughput = new TimeChart(byId('throughput'), {
    title: 'Settled per second',
    note: 'all instances',
    least: 10,
    format: rate,
    axis: shortCount,
    series: [
      ...names.map((name, index) => ({ name, ...lookOf(index) })),
      { name: 'accepted', kind: 'accepted' },
    ],
  });
  const queue = new TimeChart(byId('queue'), {
    title: 'Queue',
    note: 'all instances',
    least: 10,
    format: shortCount,
    series: [{ name: 'payments', kind: 'queued' }],
  });
  const latency = new TimeChart(byId('latency'), {
    title: 'Time to settle',
    note: 'from acceptance',
    least: 10,
    format: shortSpan,
    series: [
      { name: 'median', kind: 'p50' },
      { name: '99 %', kind: 'p99' },
    ],
  });
  const charts = [throughput, queue, latency];
  const all = [
    ({ columns }) => {
      // The database answered in those seconds, to somebody who looked.
      const known = columns.queued.map((queued) => queued != null);
      throughput.update(columns.from, [...columns.settled, columns.accepted], known);
      queue.update(columns.from, [columns.queued], known);
      latency.update(columns.from, [columns.p50Ms, columns.p99Ms], known);
    },
    figures(),
    once(trafficControls),
    processorCards(),
    moneyPanel(),
    once(deadLetters),
    once(inDoubt),
    decisionList(),
    once(whatWas),
  ];
  return { all, end: () => charts.forEach((chart) => chart.end()) };
}

/** Parts that are the same for all processors are made once. */
const made = new Map();
function once(part) {
  if (!made.has(part)) made.set(part, part());
  return made.get(part);
}

/** What stands around the panels. */
function frame(snapshot) {
  const away = snapshot.databaseAwayMs != null;
  document.body.classList.toggle('away', away);
  mark(byId('link'), 'data-state', away ? 'away' : 'live');
  say(byId('link-text'), LINK[away ? 'away' : 'live']);
  const { instances } = snapshot.router;
  const here = snapshot.instance.slice(0, 8);
  say(byId('who'), `instance ${here}, ${instances === 1 ? 'the only one' : `one of ${instances}`}`);
  say(
    byId('foot'),
    `Charts, queue, money, payments in doubt and dead letters are of the whole deployment. Breakers, beliefs, slots and decisions are those of instance ${here}. Each payment costs the fee of its time.`,
  );
}

start();
