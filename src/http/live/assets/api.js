// Calls to the operator's API, and the short messages about how they went.

import { byId, h } from './element.js';

const TOAST_MS = 6000;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

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
  const json = isJson ? await reply.json() : null;
  if (!reply.ok) throw new Refused(reply.status, json?.detail ?? `The service answered ${reply.status}.`);
  return json;
}

/** Whether this browser is signed in; null if nobody answers. */
export const isSignedIn = () => call('GET', '/session').then(({ signedIn }) => signedIn, () => null);

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

/** Asks before something that cannot be taken back. */
export function confirmed(title, text, yes) {
  const dialog = byId('confirm');
  byId('confirm-title').textContent = title;
  byId('confirm-text').textContent = text;
  byId('confirm-yes').textContent = yes;
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}
