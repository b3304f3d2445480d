// Numbers as people read them. All with the same language, so that pages look alike everywhere.
const language = 'en';
const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat(language, {
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});
const short = new Intl.NumberFormat(language, { notation: 'compact', maximumSignificantDigits: 3 });

/** There is nothing to tell. */
export const none = '–';

/** There may be something, and nobody knows what. */
export const unknown = 'unknown';

/** 1,234 */
export const count = (value) => (value == null ? none : whole.format(value));

/** 1,234, and above 99,999 as 123K */
export const shortCount = (value) =>
  value == null ? none : Math.abs(value) >= 100_000 ? short.format(value) : whole.format(value);

/** A rate per second: 7.3, 412 */
export const rate = (value) =>
  value == null ? none : value > 0 && value < 9.95 ? tenth.format(value) : shortCount(value);

/** Money, from a decimal in text: exact, however long it is. */
export function money(text) {
  const [, sign, units, places = ''] = text.match(/^(-?)(\d+)(?:\.(\d+))?$/);
  return `${sign}${whole.format(BigInt(units))}.${places.padEnd(2, '0')}`;
}

/** A share: 5 %, 12.5 %, < 0.1 %, and 100 % only for all of it */
export function percent(share, digits = 1) {
  if (share == null || Number.isNaN(share)) return none;
  const least = 10 ** -digits / 100;
  if (share > 0 && share < least / 2) return `< ${Number((least * 100).toFixed(digits))} %`;
  if (share < 1 && share > 1 - least / 2)
    return `> ${Number((100 - least * 100).toFixed(digits))} %`;
  return `${Number((share * 100).toFixed(digits))} %`;
}

/** A time span: 840 µs, 12 ms, 1.4 s, 3 min 20 s, 2 h 5 min, 3 d 4 h */
export function span(ms) {
  if (ms == null) return none;
  if (ms === 0) return '0 ms';
  if (ms < 1) return `${Math.max(1, Math.round(ms * 1000))} µs`;
  if (ms < 9.95) return `${tenth.format(ms)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${tenth.format(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  const [days, hours, minutes] = [
    Math.floor(seconds / 86400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ];
  if (days > 0) return `${whole.format(days)} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return `${minutes} min ${seconds % 60} s`;
}

/** The same where room is short, in one unit: 5 ms, 2.5 s, 95 s, 30 min */
export function shortSpan(ms) {
  if (ms == null) return none;
  const [unit, length] = [
    ['h', 3_600_000],
    ['min', 60_000],
    ['s', 1000],
  ].find(([, length]) => ms >= length * (length > 1000 ? 3 : 1)) ?? ['ms', 1];
  return `${Number((ms / length).toPrecision(ms / length >= 100 ? 3 : 2))} ${unit}`;
}

/** The same in whole seconds, for what changes all the time. */
export const calmSpan = (ms) =>
  ms != null && ms < 59_950 ? `${Math.round(ms / 1000)} s` : span(ms);

/** A moment as it is written in the ledger. */
export const moment = (text) =>
  new Date(text)
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, ' UTC');
