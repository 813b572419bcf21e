/** Two sequences of tokens side by side, with as many equal tokens facing each other as can be. */

export interface Pair {
  a: number | null;
  b: number | null;
  same: boolean;
}

/** Beyond so many cells of the table, tokens are paired in their order. */
const MOST = 4_000_000;

/** Pairs of positions; equal tokens face each other, different ones in the same gap too. */
export function align(a: ArrayLike<number>, b: ArrayLike<number>): Pair[] {
  const [n, m] = [a.length, b.length];
  let head = 0;
  while (head < n && head < m && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < n - head && tail < m - head && a[n - 1 - tail] === b[m - 1 - tail]) tail++;
  const out: Pair[] = [];
  for (let i = 0; i < head; i++) out.push({ a: i, b: i, same: true });
  out.push(...middle(a, b, head, n - tail, m - tail));
  for (let i = tail; i > 0; i--) out.push({ a: n - i, b: m - i, same: true });
  return out;
}

/** The longest common subsequence of what differs, by the usual table. */
function middle(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  from: number,
  endA: number,
  endB: number,
): Pair[] {
  const [n, m] = [endA - from, endB - from];
  const matches = n * m > MOST ? [] : common(a, b, from, n, m);
  const out: Pair[] = [];
  let [i, j] = [0, 0];
  for (const [x, y] of [...matches, [n, m] as const]) {
    for (; i < x || j < y; i += i < x ? 1 : 0, j += j < y ? 1 : 0) {
      out.push({ a: i < x ? from + i : null, b: j < y ? from + j : null, same: false });
    }
    if (x < n || y < m) {
      if (x < n && y < m) out.push({ a: from + x, b: from + y, same: true });
      [i, j] = [x + 1, y + 1];
    }
  }
  return out;
}

function common(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  from: number,
  n: number,
  m: number,
): (readonly [number, number])[] {
  const width = m + 1;
  const lengths = new Uint16Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--) {
      const diagonal = (lengths[(i + 1) * width + j + 1] ?? 0) + 1;
      const other = Math.max(lengths[(i + 1) * width + j] ?? 0, lengths[i * width + j + 1] ?? 0);
      lengths[i * width + j] = a[from + i] === b[from + j] ? diagonal : other;
    }
  const out: (readonly [number, number])[] = [];
  let [i, j] = [0, 0];
  while (i < n && j < m) {
    if (a[from + i] === b[from + j]) {
      out.push([i, j]);
      i++;
      j++;
    } else if ((lengths[(i + 1) * width + j] ?? 0) >= (lengths[i * width + j + 1] ?? 0)) i++;
    else j++;
  }
  return out;
}
