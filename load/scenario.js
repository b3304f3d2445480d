// The load itself: users that post payments, stages that make the processors slow or failing, and
// the checks that compare our summary with the processors'. What runs is data:
// load/scenarios/*.json.
//
// load/run.py starts this with `--log-format raw`: every console.log below is one JSON line, from
// which it shows the progress, audits every single payment and writes the report.

import http from 'k6/http';
import { md5 } from 'k6/crypto';
import { sleep } from 'k6';
import exec from 'k6/execution';

const scenario = JSON.parse(open(__ENV.SCENARIO_FILE));
const gateway = __ENV.GATEWAY_URL;
const processors = JSON.parse(__ENV.PROCESSOR_URLS); // name -> address
const token = { 'X-Rinha-Token': __ENV.PROCESSOR_TOKEN };
const runId = __ENV.RUN_ID;

const names = Object.keys(processors);
const json = { 'Content-Type': 'application/json' };

// Faults are for simulated processors; the others have no such endpoint.
const injectsFaults = scenario.stages.some((stage) => names.some((n) => stage[n]?.faults));

// How long a user may take to finish what it began when the load is over.
const FINISH_MS = scenario.reply_timeout_ms + scenario.pause_ms + 1000;

const scenarios = {
  payments: {
    exec: 'post',
    executor: 'ramping-vus',
    startVUs: scenario.users.first,
    stages: [{ target: scenario.users.last, duration: `${scenario.duration_s}s` }],
    gracefulRampDown: `${FINISH_MS}ms`,
    gracefulStop: `${FINISH_MS}ms`,
  },
  checks: {
    exec: 'check',
    executor: 'constant-vus',
    vus: 1,
    duration: `${scenario.duration_s}s`,
    gracefulStop: `${FINISH_MS}ms`,
  },
};
scenario.stages.forEach((stage, index) => {
  scenarios[`stage_${index}`] = {
    exec: 'stage',
    executor: 'per-vu-iterations',
    vus: 1,
    iterations: 1,
    startTime: `${stage.at_s}s`,
    env: { STAGE: String(index) },
  };
});

export const options = {
  scenarios,
  discardResponseBodies: true,
  summaryTrendStats: ['med', 'p(99)', 'max', 'count'],
  setupTimeout: '30s',
  teardownTimeout: '30s',
};

function tell(event, fields) {
  console.log(JSON.stringify({ event, ...fields }));
}

function admin(method, name, path, body) {
  const url = `${processors[name]}${path}`;
  const reply = http.request(method, url, body === undefined ? null : JSON.stringify(body), {
    headers: { ...json, ...token },
    timeout: scenario.reply_timeout_ms,
  });
  if (reply.status < 200 || reply.status > 299) {
    exec.test.abort(
      `${method} ${url} answered ${reply.status} ${reply.error}: no load without control of the processors`,
    );
  }
}

function configure(name, { delay_ms, failing, faults }) {
  admin('PUT', name, '/admin/configurations/delay', { delay: delay_ms });
  admin('PUT', name, '/admin/configurations/failure', { failure: failing });
  if (injectsFaults) {
    admin('PUT', name, '/admin/faults', faults || {});
  }
}

// Before the run everything is empty and calm. Our own purge may be refused (it is off by default):
// all that is compared later begins after this moment.
export function setup() {
  for (const name of names) {
    configure(name, { delay_ms: 0, failing: false });
  }
  http.post(`${gateway}/purge-payments`, null, { timeout: scenario.reply_timeout_ms });
  for (const name of names) {
    admin('POST', name, '/admin/purge-payments');
  }
  const started = Date.now();
  tell('start', { at: started });
  return { started };
}

// The id of a payment follows from the run, the user and its turn, so that an auditor can name
// every id that was ever posted. Hashed, because ids in order would spare the database's index some
// work.
function correlationId(user, turn) {
  const h = md5(`${runId}:${user}:${turn}`, 'hex');
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-4${h.slice(13, 16)}-8${h.slice(17, 20)}-${h.slice(20)}`;
}

export function post() {
  const user = exec.vu.idInTest;
  const turn = exec.vu.iterationInInstance;
  const amount = scenario.amounts[(user + turn) % scenario.amounts.length];
  // The amount goes out as it is written in the scenario: no float in between.
  const body = `{"correlationId":"${correlationId(user, turn)}","amount":${amount}}`;
  const at = Date.now();
  const reply = http.post(`${gateway}/payments`, body, {
    headers: json,
    timeout: scenario.reply_timeout_ms,
  });
  const line = { user, turn, at, status: reply.status, ms: reply.timings.duration };
  if (reply.status === 0) {
    line.error = reply.error;
  }
  tell('payment', line);
  sleep(scenario.pause_ms / 1000);
}

// 1234.5 -> 123450; what is not a whole number of cents is not rounded but reported as it is.
function cents(text) {
  const match = /^(\d+)(?:\.(\d{1,2})0*)?$/.exec(text);
  return match ? Number(match[1]) * 100 + Number((match[2] || '').padEnd(2, '0')) : text;
}

// Sums are read from the text of the reply: a float would hide what is wrong in the last digit.
function read(reply) {
  if (reply.status !== 200) {
    return null;
  }
  const quoted = reply.body.replace(/("total(?:Amount|Fee)"\s*:\s*)([-+.\deE]+)/g, '$1"$2"');
  try {
    return JSON.parse(quoted);
  } catch (_) {
    return null;
  }
}

function totals(summary) {
  return summary && summary.totalAmount !== undefined
    ? { count: summary.totalRequests, cents: cents(summary.totalAmount) }
    : null;
}

// One look at the ledgers of all, at the same time. A summary that cannot be read is a
// disagreement, as it is for the contest.
function compare(kind, from, to) {
  const range = `from=${new Date(from).toISOString()}&to=${new Date(to).toISOString()}`;
  const params = { headers: token, timeout: scenario.reply_timeout_ms, responseType: 'text' };
  const requests = [
    ['GET', `${gateway}/payments-summary?${range}`, null, { ...params, headers: {} }],
  ];
  for (const name of names) {
    requests.push(['GET', `${processors[name]}/admin/payments-summary?${range}`, null, params]);
  }
  const at = Date.now();
  const [ours, ...theirs] = http.batch(requests).map(read);
  const rows = {};
  names.forEach((name, i) => {
    rows[name] = { ours: ours && totals(ours[name]), theirs: totals(theirs[i]) };
  });
  tell('check', { kind, at, from, to, rows });
}

export function check({ started }) {
  const now = Date.now();
  const { every_s, from_ago_ms, to_ago_ms } = scenario.checks;
  // Not before the start: the processors have forgotten what was before, and we may not have.
  compare('check', Math.max(started, now - from_ago_ms), Math.max(started, now - to_ago_ms));
  sleep(every_s);
}

export function stage() {
  const index = Number(__ENV.STAGE);
  const at = Date.now();
  for (const name of names) {
    if (scenario.stages[index][name]) {
      configure(name, scenario.stages[index][name]);
    }
  }
  tell('stage', { index, at });
}

// What is settled now is what the contest pays for. Afterwards the processors are calm again, so
// that what is still queued can be settled before the audit.
export function teardown({ started }) {
  compare('final', started, Date.now() - scenario.checks.final_to_ago_ms);
  compare('end', started, Date.now());
  for (const name of names) {
    configure(name, { delay_ms: 0, failing: false });
  }
}

export function handleSummary(data) {
  const replies = data.metrics['http_req_duration{expected_response:true}'];
  const iterations = data.metrics.iterations;
  const line = {
    event: 'k6',
    http_p99_ms: replies ? replies.values['p(99)'] : null,
    http_replies: replies ? replies.values.count : 0,
    iterations: iterations ? iterations.values.count : 0,
  };
  return { stderr: `${JSON.stringify(line)}\n` };
}
