/** Which map is shown, and the arcs that it has. */

import { type Attention, type Pattern, type Rollout, stateName, type Statistic } from "./data.ts";
import { type Arc, LEAST } from "./parts/Arcs.tsx";
import type { Id } from "./payload.ts";
import type { Selection } from "./selection.ts";
import { extent } from "./summary.ts";

const MOST_ARCS = 40;

/** The values of a map and where in them it begins; null where none was kept. */
export interface Kept {
  values: Float32Array;
  control: Float32Array | null;
  offset: number;
  length: number;
  /** What the control is, if it is not that of the run. */
  controlName: string;
  name: string;
  head: string;
}

export function patternOf(attention: Attention, prompt: Id, [block, head]: [number, number]): Kept | null {
  const pattern: Pattern | undefined = attention.patterns.find(
    (p) => p.prompt === prompt && p.blocks.includes(block) && p.heads.includes(head),
  );
  if (!pattern) return null;
  const place = pattern.blocks.indexOf(block) * pattern.heads.length + pattern.heads.indexOf(head);
  return {
    values: pattern.values,
    control: pattern.control,
    length: pattern.length,
    offset: place * pattern.length ** 2,
    controlName: "",
    name: `block ${block}, head ${head}`,
    head: `${block}.${head}`,
  };
}

export function rolloutOf(attention: Attention, prompt: Id, state: number): Kept | null {
  const found: Rollout | undefined = attention.rollout.find((r) => r.prompt === prompt);
  if (!found) return null;
  // A rollout that begins after block 0 has one map less than there are states.
  const whole = found.states > attention.blocks;
  const s = found.states === 1 ? 0 : Math.max(0, Math.min(found.states - 1, whole ? state : state - 1));
  const shown = found.states === 1 ? "the whole depth" : stateName(whole ? s : s + 1);
  return {
    values: found.values,
    control: found.control,
    length: found.length,
    offset: s * found.length ** 2,
    controlName: "even attention",
    name: `rollout, ${shown}`,
    head: "rollout",
  };
}

/** The weights of a row (what a token looks at) and of a column (what looks at it), the strong ones. */
export function arcsOf(kept: Kept, query: number): { to: Arc[]; from: Arc[] } {
  const { values, offset, length } = kept;
  // A map may hold the first tokens of a long prompt only.
  if (query >= length) return { to: [], from: [] };
  const strong = (weight: (i: number) => number) =>
    Array.from({ length }, (_, position) => ({ position, weight: weight(position) }))
      .filter((arc) => arc.weight >= LEAST)
      .sort((a, b) => b.weight - a.weight)
      .slice(0, MOST_ARCS);
  return {
    to: strong((k) => values[offset + query * length + k] ?? 0),
    from: strong((q) => (q === query ? 0 : (values[offset + q * length + query] ?? 0))),
  };
}

export const statisticOf = (attention: Attention, name: string): Statistic | undefined =>
  attention.statistics.find((s) => s.name === name) ?? attention.statistics[0];

/** The chosen map of the prompt: a head's or the rollout's. */
export function keptOf(attention: Attention, id: Id, { rollout, head, state }: Selection): Kept | null {
  return rollout ? rolloutOf(attention, id, state) : patternOf(attention, id, head);
}

/** Both sides of a statistic share one scale. */
export function headExtent(statistic: Statistic | undefined, control: boolean): [number, number] {
  if (!statistic) return [0, 1];
  return extent([...statistic.values, ...(control && statistic.control ? statistic.control : [])]);
}
