// Calls to the operator's API, and the short messages about how they went.

import { byId, h } from './element.js';

const TOAST_MS = 6000;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/**
 * JSON whose amounts stay text: a number would lose digits. Within a string a quote has a backslash before it, so what
 * is replaced is a member of that name and nothing else.
 */
const exact = (text) => JSON.parse(text.replace(/"amount":\s*(-?\d[\d.]*)/g, '"amount":"$1"'));

/** Calls; resolves to the JSON of the reply, or null. Throws `Refused` with the service's own words. */
export async function call(method, path, body) {
  let reply;
  try {
    reply = await fetch(path, {
      method,
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, 'This instance does not answer.');
  }
  if (reply.status === 204) return null;
  const isJson = /json/.test(reply.headers.get('Content-Type') ?? '');
  const json = isJson ? exact(await reply.text()) : null;
  if (!reply.ok)
    throw new Refused(reply.status, json?.detail ?? `The service answered ${reply.status}.`);
  return json;
}

/** Whether this browser is signed in; null if nobody answers. */
export const isSignedIn = () =>
  call('GET', '/session').then(
    ({ signedIn }) => signedIn,
    () => null,
  );

/** Calls for a person who pressed something: says what came of it. Resolves to whether it was done. */
export async function act(method, path, body, done) {
  try {
    const result = await call(method, path, body);
    if (done) toast(typeof done === 'function' ? done(result) : done);
    return true;
  } catch (error) {
    toast(error.message, 'bad');
    if (error.status === 401) dispatchEvent(new Event('signed-out'));
    return false;
  }
}

export function toast(text, kind = 'good') {
  const element = h('p', { class: `toast ${kind}` }, text);
  byId('toasts').append(element);
  setTimeout(() => element.remove(), TOAST_MS);
}

/** Under which name this browser's operator is kept. */
const OPERATOR = 'payment-proxy-operator';

/** What the operator called himself last. A browser may forbid to remember it. */
export function operator() {
  try {
    return localStorage.getItem(OPERATOR) ?? '';
  } catch {
    return '';
  }
}

function remember(name) {
  try {
    localStorage.setItem(OPERATOR, name);
  } catch {
    /* Then he writes it again. */
  }
}

/**
 * Asks before something that all operators are told of, or that cannot be taken back. Resolves to who does it and why,
 * which is asked for with `needsReason`, or to null if it is not to be done.
 */
export function asked({ title, text, no, yes, needsReason = false }) {
  const dialog = byId('confirm');
  byId('confirm-title').textContent = title;
  byId('confirm-text').textContent = text;
  byId('confirm-no').textContent = no;
  byId('confirm-yes').textContent = yes;
  const [reason, by] = [byId('confirm-reason'), byId('confirm-by')];
  reason.value = '';
  for (const input of [reason, by]) {
    input.required = needsReason;
    input.pattern = needsReason ? '.*\\S.*' : '.*';
  }
  by.value = operator();
  byId('confirm-no').onclick = () => dialog.close('no');
  const opener = document.activeElement;
  dialog.returnValue = 'no';
  dialog.showModal();
  if (needsReason) reason.focus();
  return new Promise((resolve) => {
    dialog.addEventListener(
      'close',
      () => {
        // The browser gives the focus back to what is still there, and a list may have been drawn
        // anew meanwhile.
        if (!opener.isConnected) {
          document.querySelector(`[data-key="${opener.dataset.key}"]`)?.focus();
        }
        if (dialog.returnValue !== 'yes') return resolve(null);
        remember(by.value.trim());
        return resolve({ reason: reason.value.trim(), by: by.value.trim() });
      },
      { once: true },
    );
  });
}
