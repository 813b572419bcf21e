/** Adds prompts, or tokens at the end of one, to data that are shown already. */

import { type Attention, type Data, span, type TokenLabel } from "./data.ts";
import type { Id, Label } from "./payload.ts";
import { handOn } from "./summary.ts";

type Rows = Float32Array | Int32Array | Uint8Array;

function gathered<T extends Rows>(array: T, width: number, tokens: number[]): T {
  const out = new (array.constructor as new (n: number) => T)(tokens.length * width);
  tokens.forEach((token, i) => {
    out.set(array.subarray(token * width, (token + 1) * width), i * width);
  });
  return out;
}

function joined<T extends Rows>(
  a: T | null,
  b: T | null,
  sizes: [number, number],
  width: number,
  empty: number,
): T | null {
  const some = a ?? b;
  if (!some) return null;
  const [n, m] = sizes;
  const out = new (some.constructor as new (n: number) => T)((n + m) * width).fill(empty) as T;
  if (a) out.set(a);
  if (b) out.set(b, n * width);
  return out;
}

/** Every array that has a row for each token, put through one function. */
function eachArray(data: Data, change: <T extends Rows>(array: T, width: number) => T): Data {
  const of = <T extends Rows>(array: T | null, width: number) => (array ? change(array, width) : null);
  const { lens, trajectory } = data;
  return {
    ...data,
    index: change(data.index, 1),
    special: of(data.special, 1),
    word: of(data.word, 1),
    generated: of(data.generated, 1),
    tokenLabels: data.tokenLabels.map((l) => ({ ...l, index: change(l.index, 1) })),
    measures: data.measures.map((m) => ({
      ...m,
      values: change(m.values, m.depth.length),
      control: of(m.control, m.depth.length),
    })),
    lens: lens && {
      ...lens,
      tokens: change(lens.tokens, lens.states.length * lens.k),
      probs: change(lens.probs, lens.states.length * lens.k),
      control: lens.control && {
        tokens: change(lens.control.tokens, lens.states.length * lens.k),
        probs: change(lens.control.probs, lens.states.length * lens.k),
      },
    },
    trajectory: trajectory && {
      ...trajectory,
      coords: change(trajectory.coords, trajectory.states.length * 3),
      control: trajectory.control && {
        ...trajectory.control,
        coords: change(trajectory.control.coords, trajectory.states.length * 3),
      },
    },
  };
}

/** The prompts at these places, in this order. */
export function keep(data: Data, places: number[]): Data {
  const spans = places.map((p) => span(data, p));
  const tokens = spans.flatMap(({ first, length }) => Array.from({ length }, (_, i) => first + i));
  const start = new Int32Array(places.length + 1);
  spans.forEach(({ length }, i) => {
    start[i + 1] = (start[i] ?? 0) + length;
  });
  const labels = Object.entries(data.promptLabels).map(([name, values]): [string, Label[]] => [
    name,
    places.map((p) => values[p] ?? null),
  ]);
  return {
    ...eachArray(data, (array, width) => gathered(array, width, tokens)),
    ids: places.map((p) => data.ids[p] ?? 0),
    start,
    promptLabels: Object.fromEntries(labels),
  };
}

/** One list of texts for both, and the places of the second's texts in it. */
function oneVocabulary<T>(a: T[], b: T[]): { all: T[]; moved: number[] } {
  const places = new Map(a.map((text, i) => [text, i]));
  const all = [...a];
  const moved = b.map((text) => {
    let place = places.get(text);
    if (place === undefined) {
      place = all.length;
      places.set(text, place);
      all.push(text);
    }
    return place;
  });
  return { all, moved };
}

const moveIds = (ids: Int32Array, moved: number[]) => ids.map((id) => (id < 0 ? id : (moved[id] ?? -1)));

function joinLabels(a: TokenLabel[], b: TokenLabel[], sizes: [number, number]): TokenLabel[] {
  const names = [...new Set([...a, ...b].map((l) => l.name))];
  return names.map((name) => {
    const [left, right] = [a.find((l) => l.name === name), b.find((l) => l.name === name)];
    const { all, moved } = oneVocabulary(left?.values ?? [], right?.values ?? []);
    const index = joined(left?.index ?? null, right ? moveIds(right.index, moved) : null, sizes, 1, -1);
    return { name, values: all, index: index ?? new Int32Array(0) };
  });
}

function joinMeasures(a: Data, b: Data, sizes: [number, number]): Data["measures"] {
  return a.measures.map((m) => {
    const other = b.measures.find((o) => o.name === m.name);
    if (other && other.depth.length !== m.depth.length) {
      throw new Error(
        `${m.name} has ${m.depth.length} depths here and ${other.depth.length} in what is added: it is from another model.`,
      );
    }
    const of = (left: Float32Array | null, right: Float32Array | null | undefined) =>
      joined(left, right ?? null, sizes, m.depth.length, NaN);
    return { ...m, values: of(m.values, other?.values) ?? m.values, control: of(m.control, other?.control) };
  });
}

function joinLens(a: Data, b: Data, sizes: [number, number]): Data["lens"] {
  const [left, right] = [a.lens, b.lens];
  if (!left) return null;
  const width = left.states.length * left.k;
  const fits = right && right.k === left.k && right.states.length === left.states.length;
  const { all, moved } = oneVocabulary(left.texts, fits ? right.texts : []);
  const join = (
    x: { tokens: Int32Array; probs: Float32Array },
    y: { tokens: Int32Array; probs: Float32Array } | null,
  ) => ({
    tokens: joined(x.tokens, y && moveIds(y.tokens, moved), sizes, width, -1) ?? x.tokens,
    probs: joined(x.probs, y && y.probs, sizes, width, NaN) ?? x.probs,
  });
  return {
    ...left,
    texts: all,
    ...join(left, fits ? right : null),
    prompts: new Set([...left.prompts, ...(fits ? right.prompts : [])]),
    best: new Set([...left.best, ...(fits ? right.best : [])]),
    control: left.control && join(left.control, fits ? right.control : null),
  };
}

function joinTrajectory(a: Data, b: Data, sizes: [number, number]): Data["trajectory"] {
  const [left, right] = [a.trajectory, b.trajectory];
  if (!left) return null;
  const width = left.states.length * 3;
  const fits = right?.states.length === left.states.length ? right : null;
  return {
    ...left,
    coords: joined(left.coords, fits?.coords ?? null, sizes, width, NaN) ?? left.coords,
    control: left.control && {
      ...left.control,
      coords:
        joined(left.control.coords, fits?.control?.coords ?? null, sizes, width, NaN) ?? left.control.coords,
    },
  };
}

function joinAttention(a: Attention | null, b: Attention | null): Attention | null {
  if (!a || !b) return a;
  const fresh = (kept: { prompt: Id }[], added: { prompt: Id }[]) =>
    kept.filter((k) => !added.some((n) => n.prompt === k.prompt));
  return {
    ...a,
    patterns: [...(fresh(a.patterns, b.patterns) as Attention["patterns"]), ...b.patterns],
    rollout: [...(fresh(a.rollout, b.rollout) as Attention["rollout"]), ...b.rollout],
  };
}

function joinPrompts(a: Data, b: Data, continues: boolean): Pick<Data, "ids" | "start" | "promptLabels"> {
  const n = a.index.length;
  const offsets = Array.from(b.start.subarray(1), (s) => n + s);
  const start = Int32Array.from(
    continues ? [...a.start.subarray(0, -1), ...offsets] : [...a.start, ...offsets],
  );
  const ids = continues ? a.ids : [...a.ids, ...b.ids];
  const names = [...new Set([...Object.keys(a.promptLabels), ...Object.keys(b.promptLabels)])];
  const of = (data: Data, name: string) => data.promptLabels[name] ?? data.ids.map(() => null);
  const promptLabels = Object.fromEntries(
    names.map((name) => [name, continues ? of(a, name) : [...of(a, name), ...of(b, name)]]),
  );
  return { ids, start, promptLabels };
}

/**
 * The data with `added` at the end. A prompt whose id is there already is replaced, or goes on with
 * the added tokens (`continues`); it then is the last one.
 */
export function add(data: Data, added: Data, continues = false): Data {
  const taken = new Set(added.ids);
  const places = data.ids.map((_, p) => p);
  const others = places.filter((p) => !taken.has(data.ids[p] ?? -1));
  const going = continues ? places.filter((p) => taken.has(data.ids[p] ?? -1)) : [];
  if (continues && (going.length !== 1 || added.ids.length !== 1))
    throw new Error("Tokens can be added to one prompt that is there.");
  const wanted = [...others, ...going];
  // What replaces every prompt may have other axes and means: nothing of the old stays.
  if (!wanted.length) return { ...added, live: added.live ?? data.live };
  const a = wanted.every((p, i) => p === i) && wanted.length === places.length ? data : keep(data, wanted);
  const sizes: [number, number] = [a.index.length, added.index.length];
  const { all, moved } = oneVocabulary(a.texts, added.texts);
  const bits = (x: Uint8Array | null, y: Uint8Array | null) => joined(x, y, sizes, 1, 0);
  const measures = joinMeasures(a, added, sizes);
  // What was sorted for the bands stays: one more token must not sort all of them again.
  if (a === data)
    a.measures.forEach((m, i) => {
      const next = measures[i];
      if (next) handOn(m, next);
    });
  return {
    ...a,
    ...joinPrompts(a, added, continues),
    texts: all,
    index: joined(a.index, moveIds(added.index, moved), sizes, 1, -1) ?? a.index,
    special: bits(a.special, added.special),
    word: bits(a.word, added.word),
    generated: bits(a.generated, added.generated),
    tokenLabels: joinLabels(a.tokenLabels, added.tokenLabels, sizes),
    measures,
    lens: joinLens(a, added, sizes),
    trajectory: joinTrajectory(a, added, sizes),
    attention: joinAttention(a.attention, added.attention),
  };
}
