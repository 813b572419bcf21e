/** Summaries of tokens and groups: what bands, scales and comparisons are drawn from. */

import { quantileSorted } from "d3-array";
import { type Band, type Data, type Group, type Measure, members, promptOf } from "./data.ts";

/** At most so many tokens are sorted for the edges of a band; the mean is of all. */
export const SORTED_TOKENS = 1500;

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

/** Mean, 10th and 90th percentile over a group's tokens at each depth; NaN where nothing is defined. */
export function bandOf(data: Data, measure: Measure, group: Group | null, control = false): Band | null {
  const values = control ? measure.control : measure.values;
  if (!values) return null;
  const given = control ? measure.controlBand : measure.band;
  if (!group && given) return given;
  return keptBands(measure, `${groupKey(group)}|${control}`, () => {
    const tokens = membersOf(data, group);
    const few = thin(tokens, SORTED_TOKENS);
    const width = measure.depth.length;
    const band: Band = {
      mean: new Float32Array(width),
      low: new Float32Array(width),
      high: new Float32Array(width),
    };
    for (let d = 0; d < width; d++) {
      const all = columnOf(values, width, d, tokens);
      band.mean[d] = mean(all);
      const sorted = (few === tokens ? all : columnOf(values, width, d, few)).sort();
      band.low[d] = quantileSorted(sorted as unknown as number[], 0.1) ?? NaN;
      band.high[d] = quantileSorted(sorted as unknown as number[], 0.9) ?? NaN;
    }
    return band;
  });
}

/** The 2nd and 98th percentile of a measure at a depth over ordinary tokens: the ends of its colours. */
export function extentAt(data: Data, measure: Measure, depth: number): [number, number] {
  return keptExtents(measure, String(depth), () => {
    const tokens = thin(membersOf(data, null), SORTED_TOKENS);
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
export function estimate(values: { prompt: number; value: number }[]): Estimate {
  const sums = new Map<number, { sum: number; n: number }>();
  for (const { prompt, value } of values) {
    if (Number.isNaN(value)) continue;
    const of = sums.get(prompt) ?? { sum: 0, n: 0 };
    sums.set(prompt, { sum: of.sum + value, n: of.n + 1 });
  }
  const means = [...sums.values()].map(({ sum, n }) => sum / n);
  const middle = mean(means);
  const n = means.length;
  if (n < 2) return { mean: middle, low: NaN, high: NaN, prompts: n };
  const variance = means.reduce((a, v) => a + (v - middle) ** 2, 0) / (n - 1);
  const half = t95(n - 1) * Math.sqrt(variance / n);
  return { mean: middle, low: middle - half, high: middle + half, prompts: n };
}

const valuesOf = (data: Data, measure: Measure, tokens: number[], depth: number, control: boolean) => {
  const values = control ? measure.control : measure.values;
  const width = measure.depth.length;
  return tokens.map((token) => ({
    prompt: promptOf(data, token),
    value: values?.[token * width + depth] ?? NaN,
  }));
};

/** A group's estimate at each depth. */
export const estimates = (data: Data, measure: Measure, tokens: number[], control = false): Estimate[] =>
  measure.depth.map((_, d) => estimate(valuesOf(data, measure, tokens, d, control)));

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
  return measure.depth.map((_, d) => {
    const left = byPrompt(valuesOf(data, measure, a, d, control));
    const right = byPrompt(valuesOf(data, measure, b, d, control));
    const both = [...left.keys()].filter((prompt) => right.has(prompt));
    if (both.length > 1 && both.length >= Math.min(left.size, right.size) / 2) {
      const within = both.map((prompt) => ({
        prompt,
        value: (left.get(prompt) ?? NaN) - (right.get(prompt) ?? NaN),
      }));
      return { ...estimate(within), paired: true };
    }
    return { ...apart([...left.values()], [...right.values()]), paired: false };
  });
}

function byPrompt(values: { prompt: number; value: number }[]): Map<number, number> {
  const lists = new Map<number, number[]>();
  for (const { prompt, value } of values) {
    if (Number.isNaN(value)) continue;
    const list = lists.get(prompt);
    if (list) list.push(value);
    else lists.set(prompt, [value]);
  }
  return new Map([...lists].map(([prompt, list]) => [prompt, mean(list)]));
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
