// Money: decimals in text, as whole numbers of cents. A float would lose digits of large sums.

/** The cents of a decimal with at most two places, such as -1234.5. */
export function cents(text) {
  const [, sign, whole, places = ''] = text.match(/^(-?)(\d+)(?:\.(\d{0,2}))?$/);
  const value = BigInt(whole) * 100n + BigInt(places.padEnd(2, '0'));
  return sign ? -value : value;
}

/** A share for a bar or a percentage: four digits are as many as anybody sees. */
export const share = (part, whole) =>
  whole === 0n ? 0 : Number((part * 1_000_000n) / whole) / 1_000_000;
