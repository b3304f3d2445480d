// Puts the parts of the page together.

import { call, isSignedIn, toast } from './api.js';
import { deadLetters } from './dead_letters.js';
import { decisionList } from './decisions.js';
import { byId, mark, say } from './element.js';
import { follow } from './feed.js';
import { figures } from './figures.js';
import { rate, shortCount, shortSpan } from './format.js';
import { moneyPanel } from './money.js';
import { processorCards } from './processors.js';
import { lookOf } from './series.js';
import { trafficControls } from './simulation.js';
import { situation } from './situation.js';
import { TimeChart } from './time_chart.js';

const LINK = { live: 'Live', lost: 'Connection lost, trying again', paused: 'Paused', away: 'Live, database away' };

/** What is there only for who is signed in. */
const SIGNED_IN = ['skip', 'sign-out', 'live'];

let stopFollowing = null;
let draw = null;

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
  stopFollowing?.();
  stopFollowing = follow({
    snapshot: (snapshot) => {
      draw ??= parts(snapshot);
      for (const part of draw) part(snapshot);
      document.body.dataset.at = snapshot.atMs;
    },
    state: (state) => link(state),
    signedOut: () => showSignIn('The session is over.'),
  });
}

function link(state) {
  if (state === 'live' && byId('link').dataset.state === 'away') return;
  mark(byId('link'), 'data-state', state);
  say(byId('link-text'), LINK[state]);
  document.body.classList.toggle('stale', state === 'lost');
}

/** All that is drawn with each snapshot. The charts are made for the processors that there are. */
function parts({ router }) {
  const names = router.processors.map(({ name }) => name);
  const throughput = new TimeChart(byId('throughput'), {
    title: 'Settled per second', note: 'all instances', least: 10, format: rate, axis: shortCount,
    series: [...names.map((name, index) => ({ name, ...lookOf(index) })), { name: 'accepted', kind: 'accepted' }],
  });
  const queue = new TimeChart(byId('queue'), {
    title: 'Queue', note: 'all instances', least: 10, format: shortCount, series: [{ name: 'payments', kind: 'queued' }],
  });
  const latency = new TimeChart(byId('latency'), {
    title: 'Time to settle', note: 'from acceptance', least: 10, format: shortSpan, series: [{ name: 'median', kind: 'p50' }, { name: '99 %', kind: 'p99' }],
  });
  return [
    ({ columns }) => {
      throughput.update(columns.from, [...columns.settled, columns.accepted]);
      queue.update(columns.from, [columns.queued]);
      latency.update(columns.from, [columns.p50Ms, columns.p99Ms]);
    },
    figures(), trafficControls(), processorCards(), moneyPanel(), deadLetters(), decisionList(), headline,
  ];
}

function headline(snapshot) {
  const { level, title, text } = situation(snapshot);
  mark(byId('situation'), 'data-level', level);
  say(byId('situation-title'), title);
  say(byId('situation-text'), text);
  const name = level === 'calm' ? 'payment-proxy' : `${title} payment-proxy`;
  if (document.title !== name) document.title = name;
  document.body.classList.toggle('away', snapshot.databaseAwayMs != null);
  mark(byId('link'), 'data-state', snapshot.databaseAwayMs != null ? 'away' : 'live');
  say(byId('link-text'), LINK[snapshot.databaseAwayMs != null ? 'away' : 'live']);
  const { instances } = snapshot.router;
  const here = snapshot.instance.slice(0, 8);
  say(byId('who'), `instance ${here}, ${instances === 1 ? 'the only one' : `one of ${instances}`}`);
  say(byId('foot'), `Charts, queue, money and dead letters are of the whole deployment. Breakers, beliefs, slots and decisions are those of instance ${here}. Fees are computed at the configured rates.`);
}

start();
