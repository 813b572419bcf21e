/** Two sides and their difference, in numbers and in words. */

import {
  type Band,
  column,
  type Data,
  type Group,
  groupings,
  type Measure,
  place,
  span,
  text,
} from "./data.ts";
import { number, short, visible } from "./format.ts";
import type { Selection } from "./selection.ts";
import { differences, type Estimate, estimates, membersOf } from "./summary.ts";

export interface Side {
  name: string;
  tokens: number[];
}

const ordinary = (data: Data, prompt: number): number[] => {
  const { first, length } = span(data, prompt);
  return Array.from({ length }, (_, i) => first + i).filter((token) => !data.special?.[token]);
};

/** Two groups to begin with: the first two values of the first label. */
function usualGroups(data: Data): [Group | null, Group | null] {
  const all = groupings(data).filter(({ values }) => values.length > 1);
  const found = all.find(({ values }) => values.includes("target")) ?? all[0];
  const [a, b] = found?.values ?? [];
  if (!found || a === undefined || b === undefined) return [null, null];
  const target = found.values.includes("target") && found.values.includes("previous");
  return [
    { label: found.label, value: target ? "target" : a },
    { label: found.label, value: target ? "previous" : b },
  ];
}

export function groupsOf(data: Data, s: Selection): [Group | null, Group | null] {
  const [a, b] = usualGroups(data);
  return [s.group ?? a, s.otherGroup ?? b];
}

export function sidesOf(data: Data, s: Selection): [Side, Side] {
  if (s.mode === "groups") {
    const name = (g: Group | null) => (g ? visible(g.value) : "all tokens");
    const [a, b] = groupsOf(data, s);
    return [
      { name: name(a), tokens: membersOf(data, a) },
      { name: name(b), tokens: membersOf(data, b) },
    ];
  }
  if (s.mode === "prompts") {
    const side = (p: number): Side => ({ name: `prompt ${data.ids[p] ?? 0}`, tokens: ordinary(data, p) });
    return [side(s.prompt), side(s.otherPrompt)];
  }
  const side = (p: number, position: number): Side => {
    const token = span(data, p).first + position;
    return {
      name: `${short(text(data, token), 14)} (prompt ${data.ids[p] ?? 0}, position ${position})`,
      tokens: token < data.index.length ? [token] : [],
    };
  };
  return [side(s.prompt, s.tokens[s.tokens.length - 1] ?? 0), side(s.otherPrompt, s.otherToken)];
}

export interface Compared {
  measure: Measure;
  a: Estimate[];
  b: Estimate[];
  difference: (Estimate & { paired: boolean })[];
  control: { a: Estimate[]; b: Estimate[]; difference: Estimate[] } | null;
}

export function compared(data: Data, measure: Measure, [a, b]: [Side, Side], control: boolean): Compared {
  const of = (side: boolean) => ({
    a: estimates(data, measure, a.tokens, side),
    b: estimates(data, measure, b.tokens, side),
    difference: differences(data, measure, a.tokens, b.tokens, side),
  });
  return { measure, ...of(false), control: control && measure.control ? of(true) : null };
}

export const means = (estimates: Estimate[]) => estimates.map((e) => e.mean);
export const bandFrom = (estimates: Estimate[]): Band => ({
  mean: Float32Array.from(estimates, (e) => e.mean),
  low: Float32Array.from(estimates, (e) => e.low),
  high: Float32Array.from(estimates, (e) => e.high),
});
export const hasInterval = (estimates: Estimate[]) => estimates.some((e) => Number.isFinite(e.low));

export const interval = (e: Estimate) =>
  Number.isFinite(e.low) ? ` (95 % interval ${number(e.low, 3)} to ${number(e.high, 3)})` : "";

/** The depth with the largest difference; -1 if none is known. */
export function largest(difference: Estimate[]): number {
  return difference.reduce(
    (best, e, d) =>
      Number.isFinite(e.mean) && Math.abs(e.mean) > Math.abs(difference[best]?.mean ?? 0) ? d : best,
    -1,
  );
}

/** Where the two sides differ most, with its interval and, of groups that were tested, the test. */
function most(data: Data, c: Compared, sides: readonly [string, string]): string[] {
  const d = largest(c.difference);
  const best = c.difference[d];
  if (!best || c.measure.axis === "none") return [];
  const unit = c.measure.unit ? ` ${c.measure.unit}` : "";
  const test = data.tests.find(
    (t) =>
      t.measure === c.measure.name &&
      t.p &&
      [t.a, t.b].sort().join("\u001f") === [...sides].sort().join("\u001f"),
  );
  const p = test?.p?.[(test.depth ?? []).map(String).indexOf(c.measure.depth[d] ?? "")];
  const tested = typeof p === "number" && Number.isFinite(p) ? `; the run's test: p = ${number(p, 2)}` : "";
  return [
    `The difference A − B is largest at ${place(c.measure, d)}: ${number(best.mean)}${unit}${interval(best)}${tested}.`,
  ];
}

/** The largest difference in words, the one at the chosen depth, and the control's. */
export function said(
  data: Data,
  c: Compared,
  state: number,
  sides: readonly [string, string] = ["", ""],
): string[] {
  const d = column(c.measure, state);
  const [a, b, difference] = [c.a[d], c.b[d], c.difference[d]];
  if (!a || !b || !difference) return [];
  const unit = c.measure.unit ? ` ${c.measure.unit}` : "";
  const where = place(c.measure, d);
  const out = [
    ...most(data, c, sides),
    `${where ? `At ${where}: ` : ""}A ${number(a.mean)}, B ${number(b.mean)}; difference ${number(difference.mean)}${unit}${interval(difference)}${difference.paired ? `, within ${difference.prompts} prompts` : ""}.`,
  ];
  const control = c.control?.difference[d];
  if (control)
    out.push(
      `The control (${data.controlName}) has a difference of ${number(control.mean)}${interval(control)}.`,
    );
  return out;
}

/** Sentences of tests on this measure; those on the chosen groups come first. */
export function testsOf(data: Data, measure: Measure, a: string, b: string): string[] {
  const found = data.tests.filter((t) => t.measure === measure.name);
  const fits = (t: (typeof found)[number]) => (t.a === a && t.b === b) || (t.a === b && t.b === a);
  return [...found.filter(fits), ...found.filter((t) => !fits(t))].map((t) => t.text);
}
