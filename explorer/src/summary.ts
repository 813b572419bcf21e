/** Summaries of tokens and groups: what bands, scales and comparisons are drawn from. */

import { bisectRight, quantileSorted } from "d3-array";
import { type Band, type Data, type Group, type Measure, members, promptOf } from "./data.ts";

/** About so many tokens of a group are sorted for the edges of a band; the mean is of all. */
export const SORTED_TOKENS = 1500;

/** Up to so many new tokens are put in one by one; more are sorted anew with the others. */
const FEW = 32;

/** Keeps what was computed for as long as the object that it was computed from. */
function kept<T>(): (owner: object, key: string, make: () => T) => T {
  const all = new WeakMap<object, Map<string, T>>();
  return (owner, key, make) => {
    let of = all.get(owner);
    if (!of) all.set(owner, (of = new Map<string, T>()));
    let value = of.get(key);
    if (value === undefined) of.set(key, (value = make()));
    return value;
  };
}

const keptMembers = kept<number[]>();
const keptBands = kept<Band>();
const keptExtents = kept<[number, number]>();

const groupKey = (group: Group | null) => (group ? `${group.label}\u001f${group.value}` : "");

export const membersOf = (data: Data, group: Group | null): number[] =>
  keptMembers(data, groupKey(group), () => members(data, group));

function columnOf(values: Float32Array, width: number, depth: number, tokens: number[]): Float32Array {
  const out = new Float32Array(tokens.length);
  let n = 0;
  for (const token of tokens) {
    const value = values[token * width + depth] ?? NaN;
    if (!Number.isNaN(value)) out[n++] = value;
  }
  return out.subarray(0, n);
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] ?? 0;
  return values.length ? sum / values.length : NaN;
}

/** Every n-th token, so that at most `most` are left. */
export function thin(tokens: number[], most: number): number[] {
  if (tokens.length <= most) return tokens;
  return Array.from({ length: most }, (_, i) => tokens[Math.floor((i * tokens.length) / most)] ?? 0);
}

/** How often a group must be halved until about `SORTED_TOKENS` are left. */
const halvings = (members: number) => Math.max(0, Math.ceil(Math.log2(members / SORTED_TOKENS)));

/**
 * Whether a member is among those that are sorted. Steps of the golden ratio fall evenly, have no period
 * that the length of prompts could share, and a member that is in stays in when others follow it.
 */
const drawn = (member: number, halved: number) =>
  halved === 0 || Math.imul(member, 0x9e3779b1) >>> (32 - halved) === 0;

/** The members whose values are sorted: all of a small group, about `SORTED_TOKENS` of a large one. */
export function sample(tokens: number[]): number[] {
  const halved = halvings(tokens.length);
  return halved ? tokens.filter((_, i) => drawn(i, halved)) : tokens;
}

/** What the band of a group is read from: for each depth the sum, the count and the sorted values. */
interface Columns {
  /** So many members are in. */
  members: number;
  halved: number;
  sums: Float64Array;
  counts: Int32Array;
  sorted: Float32Array[];
}

const keptColumns = new WeakMap<Measure, Map<string, Columns>>();

/** Hands on what was sorted to the same measure with more tokens behind the old ones. */
export function handOn(from: Measure, to: Measure): void {
  const columns = keptColumns.get(from);
  if (!columns) return;
  keptColumns.set(to, columns);
  keptColumns.delete(from);
}

function addUp(c: Columns, values: Float32Array, tokens: number[]): void {
  const width = c.sums.length;
  for (const token of tokens)
    for (let d = 0; d < width; d++) {
      const value = values[token * width + d] ?? NaN;
      if (Number.isNaN(value)) continue;
      c.sums[d] = (c.sums[d] ?? 0) + value;
      c.counts[d] = (c.counts[d] ?? 0) + 1;
    }
}

function newColumns(values: Float32Array, width: number, tokens: number[]): Columns {
  const few = sample(tokens);
  const columns: Columns = {
    members: tokens.length,
    halved: halvings(tokens.length),
    sums: new Float64Array(width),
    counts: new Int32Array(width),
    sorted: Array.from({ length: width }, (_, d) => columnOf(values, width, d, few).sort()),
  };
  addUp(columns, values, tokens);
  return columns;
}

function inserted(sorted: Float32Array, value: number): Float32Array {
  const at = bisectRight(sorted, value);
  const out = new Float32Array(sorted.length + 1);
  out.set(sorted.subarray(0, at));
  out[at] = value;
  out.set(sorted.subarray(at), at + 1);
  return out;
}

/** Puts in the members that came since. */
function grow(c: Columns, values: Float32Array, tokens: number[]): void {
  const width = c.sums.length;
  addUp(c, values, tokens.slice(c.members));
  for (let i = c.members; i < tokens.length; i++) {
    if (!drawn(i, c.halved)) continue;
    const row = values.subarray((tokens[i] ?? 0) * width, ((tokens[i] ?? 0) + 1) * width);
    c.sorted = c.sorted.map((sorted, d) => {
      const value = row[d] ?? NaN;
      return Number.isNaN(value) ? sorted : inserted(sorted, value);
    });
  }
  c.members = tokens.length;
}

function columnsOf(measure: Measure, values: Float32Array, key: string, tokens: number[]): Columns {
  let all = keptColumns.get(measure);
  if (!all) keptColumns.set(measure, (all = new Map<string, Columns>()));
  const old = all.get(key);
  const more = tokens.length - (old?.members ?? 0);
  if (old?.halved === halvings(tokens.length) && more >= 0 && more <= FEW) {
    grow(old, values, tokens);
    return old;
  }
  const columns = newColumns(values, measure.depth.length, tokens);
  all.set(key, columns);
  return columns;
}

const quantile = (sorted: Float32Array, q: number) => quantileSorted(sorted as unknown as number[], q) ?? NaN;

/** Mean, 10th and 90th percentile over a group's tokens at each depth; NaN where nothing is defined. */
export function bandOf(data: Data, measure: Measure, group: Group | null, control = false): Band | null {
  const given = control ? measure.controlBand : measure.band;
  if (!group && given) return given;
  const values = control ? measure.control : measure.values;
  if (!values) return null;
  const key = `${groupKey(group)}|${control}`;
  return keptBands(measure, key, () => {
    const { sums, counts, sorted } = columnsOf(measure, values, key, membersOf(data, group));
    return {
      mean: Float32Array.from(sums, (sum, d) => sum / (counts[d] ?? 0)),
      low: Float32Array.from(sorted, (column) => quantile(column, 0.1)),
      high: Float32Array.from(sorted, (column) => quantile(column, 0.9)),
    };
  });
}

/** The 2nd and 98th percentile of a measure at a depth over ordinary tokens: the ends of its colours. */
export function extentAt(data: Data, measure: Measure, depth: number): [number, number] {
  return keptExtents(measure, String(depth), () => {
    const tokens = sample(membersOf(data, null));
    const sorted = columnOf(measure.values, measure.depth.length, depth, tokens).sort();
    return [
      quantileSorted(sorted as unknown as number[], 0.02) ?? 0,
      quantileSorted(sorted as unknown as number[], 0.98) ?? 1,
    ];
  });
}

/** Least and largest finite number. */
export function extent(values: Iterable<number>): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

export interface Estimate {
  mean: number;
  low: number;
  high: number;
  prompts: number;
}

const T95 = [
  NaN,
  12.706,
  4.303,
  3.182,
  2.776,
  2.571,
  2.447,
  2.365,
  2.306,
  2.262,
  2.228,
  2.201,
  2.179,
  2.16,
  2.145,
  2.131,
  2.12,
  2.11,
  2.101,
  2.093,
  2.086,
  2.08,
  2.074,
  2.069,
  2.064,
  2.06,
  2.056,
  2.052,
  2.048,
  2.045,
  2.042,
];

/** The 97.5th percentile of Student's t, from a table up to 30 degrees of freedom and a series above. */
export function t95(freedom: number): number {
  return T95[freedom] ?? 1.959964 + 2.372271 / freedom + 2.8225 / freedom ** 2;
}

/**
 * Mean of the prompts' means with its 95 % interval: tokens of a prompt are alike, so the prompt is
 * the unit. Without a second prompt there is no interval.
 */
export function estimate(means: number[]): Estimate {
  const middle = mean(means);
  const n = means.length;
  if (n < 2) return { mean: middle, low: NaN, high: NaN, prompts: n };
  const variance = means.reduce((a, v) => a + (v - middle) ** 2, 0) / (n - 1);
  const half = t95(n - 1) * Math.sqrt(variance / n);
  return { mean: middle, low: middle - half, high: middle + half, prompts: n };
}

/** For each prompt its row in an array of prompts × depth that holds its tokens' means. */
interface PromptMeans {
  rows: Map<number, number>;
  /** NaN where no token of the prompt has a value. */
  at: (row: number, depth: number) => number;
}

/** One walk over the tokens: a prompt of thousands of tokens is compared while a key is held down. */
function promptMeans(data: Data, measure: Measure, tokens: number[], control: boolean): PromptMeans {
  const values = control ? measure.control : measure.values;
  const width = measure.depth.length;
  const rows = new Map<number, number>();
  const rowOf = tokens.map((token) => {
    const prompt = promptOf(data, token);
    const row = rows.get(prompt) ?? rows.size;
    if (row === rows.size) rows.set(prompt, row);
    return row;
  });
  const sums = new Float64Array(rows.size * width);
  const counts = new Int32Array(rows.size * width);
  tokens.forEach((token, i) => {
    for (let d = 0; d < width; d++) {
      const value = values?.[token * width + d] ?? NaN;
      if (Number.isNaN(value)) continue;
      const place = (rowOf[i] ?? 0) * width + d;
      sums[place] = (sums[place] ?? 0) + value;
      counts[place] = (counts[place] ?? 0) + 1;
    }
  });
  const at = (row: number, depth: number) =>
    (sums[row * width + depth] ?? NaN) / (counts[row * width + depth] ?? 0);
  return { rows, at };
}

const known = (values: number[]) => values.filter((value) => !Number.isNaN(value));

/** A group's estimate at each depth. */
export function estimates(data: Data, measure: Measure, tokens: number[], control = false): Estimate[] {
  const { rows, at } = promptMeans(data, measure, tokens, control);
  const all = [...rows.values()];
  return measure.depth.map((_, d) => estimate(known(all.map((row) => at(row, d)))));
}

/**
 * The difference of two groups at each depth: within each prompt that has both, otherwise of the two
 * means with Welch's interval.
 */
export function differences(
  data: Data,
  measure: Measure,
  a: number[],
  b: number[],
  control = false,
): (Estimate & { paired: boolean })[] {
  const [left, right] = [promptMeans(data, measure, a, control), promptMeans(data, measure, b, control)];
  const both = [...left.rows].flatMap(([prompt, row]) => {
    const other = right.rows.get(prompt);
    return other === undefined ? [] : [[row, other] as const];
  });
  const column = ({ rows, at }: PromptMeans, d: number) => known([...rows.values()].map((row) => at(row, d)));
  return measure.depth.map((_, d) => {
    const within = known(both.map(([i, j]) => left.at(i, d) - right.at(j, d)));
    const [x, y] = [column(left, d), column(right, d)];
    if (within.length > 1 && within.length >= Math.min(x.length, y.length) / 2)
      return { ...estimate(within), paired: true };
    return { ...apart(x, y), paired: false };
  });
}

const spread = (values: number[]) => {
  const middle = mean(values);
  return values.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (values.length - 1) / values.length;
};

/** Welch's interval for the difference of two means. */
function apart(a: number[], b: number[]): Estimate {
  const middle = mean(a) - mean(b);
  const prompts = a.length + b.length;
  if (a.length < 2 || b.length < 2) return { mean: middle, low: NaN, high: NaN, prompts };
  const [va, vb] = [spread(a), spread(b)];
  const freedom = (va + vb) ** 2 / (va ** 2 / (a.length - 1) + vb ** 2 / (b.length - 1));
  const half = va + vb > 0 ? t95(Math.max(1, Math.floor(freedom))) * Math.sqrt(va + vb) : 0;
  return { mean: middle, low: middle - half, high: middle + half, prompts };
}
