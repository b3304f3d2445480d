// The snapshots as they come in, one a second, and what to do when none comes.

import { isSignedIn } from './api.js';

const SILENCE_MS = 5000;
const RETRY_MS = 1500;

/**
 * Follows the feed until the tab is hidden, and again when it is back.
 * `on.snapshot(snapshot)`, `on.state('live' | 'lost' | 'paused')`, `on.signedOut()`.
 */
export function follow(on) {
  let source = null;
  let silence = 0;
  let retry = 0;

  const close = () => {
    source?.close();
    source = null;
    clearTimeout(silence);
    clearTimeout(retry);
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
  const seen = () => {
    if (!document.hidden) return open();
    close();
    on.state('paused');
  };
  document.addEventListener('visibilitychange', seen);
  seen();
  return () => {
    close();
    document.removeEventListener('visibilitychange', seen);
  };
}
