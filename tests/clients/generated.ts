// Pays with clients that are made of the documents. usage: node generated.js PUBLIC OPERATORS TOKEN

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';

import createClient from 'openapi-fetch';

import type { paths as OperatorPaths } from './operators.js';
import type { components, paths } from './public.js';

type PaymentView = components['schemas']['PaymentView'];

const [publicUrl = '', operatorsUrl = '', token = ''] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: publicUrl });
const operators = createClient<OperatorPaths>({
  baseUrl: operatorsUrl,
  headers: { Authorization: `Bearer ${token}` },
});

const id = randomUUID();
const accepted = await client.POST('/payments', { body: { correlationId: id, amount: 20.5 } });
assert.equal(accepted.response.status, 202);

async function read(): Promise<PaymentView> {
  const { data, error } = await client.GET('/payments/{id}', { params: { path: { id } } });
  if (data === undefined) throw new Error(error.detail);
  return data;
}
let view = await read();
for (let tries = 0; view.state !== 'settled' && tries < 200; tries += 1) {
  await pause(50);
  view = await read();
}
assert.deepEqual([view.state, view.amount, view.processor], ['settled', 20.5, 'default']);

const summary = await client.GET('/payments-summary', {
  params: { query: { from: '2026-01-01T00:00:00.000Z' } },
});
assert.equal(summary.data?.['default']?.totalAmount, 20.5);

const conflict = await client.POST('/payments', { body: { correlationId: id, amount: 20.75 } });
const problem: components['schemas']['Problem'] | undefined = conflict.error;
assert.equal(problem?.type, '/problems/amount-conflict');
assert.equal(problem?.status, 409);

const routing = await operators.GET('/routing');
assert.deepEqual(routing.data?.processors.map(({ name }) => name), ['default']);
const refused = await operators.POST('/routing/{processor}/disable', {
  params: { path: { processor: 'nobody' } },
});
assert.equal(refused.error?.type, '/problems/processor-not-found');
console.log('paid', id);
