// The snapshots as they come in, one a second, and what to do when none comes.

import { call, isSignedIn } from './api.js';

const SILENCE_MS = 5000;
const RETRY_MS = 1500;
/** Milliseconds between two looks at what wants attention while the tab is hidden: its title is all that is seen. */
const HIDDEN_LOOK_MS = 10_000;

/**
 * Follows the feed, and while the tab is hidden only what wants attention.
 * `on.snapshot(snapshot)`, `on.attention(items)`, `on.asked()`: an answer is due, `on.signedOut()`,
 * `on.state('connecting' | 'live' | 'lost' | 'paused')`.
 */
export function follow(on) {
  let source = null;
  let silence = 0;
  let retry = 0;
  let looks = 0;

  const close = () => {
    source?.close();
    source = null;
    clearTimeout(silence);
    clearTimeout(retry);
    clearInterval(looks);
  };
  const again = async () => {
    close();
    on.state('lost');
    // An EventSource does not tell why it was refused.
    if ((await isSignedIn()) === false) on.signedOut();
    else if (!document.hidden) retry = setTimeout(open, RETRY_MS);
  };
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(again, SILENCE_MS);
  };
  const open = () => {
    close();
    source = new EventSource('/live');
    heard();
    source.onmessage = (event) => {
      heard();
      on.state('live');
      on.snapshot(JSON.parse(event.data));
    };
    source.onerror = () => again();
  };
  const look = async () => {
    on.asked();
    try {
      const items = await call('GET', '/attention');
      // It may have come after the tab was shown again.
      if (document.hidden) on.attention(items);
    } catch (error) {
      if (error.status === 401) on.signedOut();
    }
  };
  const seen = () => {
    if (!document.hidden) {
      on.state('connecting');
      open();
      return;
    }
    close();
    on.state('paused');
    looks = setInterval(look, HIDDEN_LOOK_MS);
    look();
  };
  document.addEventListener('visibilitychange', seen);
  seen();
  return () => {
    close();
    document.removeEventListener('visibilitychange', seen);
  };
}
