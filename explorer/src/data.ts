/** The payload as typed arrays, and the questions that views put to it. Never changed in place. */

import { flags, floats, integers } from "./decode.ts";
import type {
  AttentionPayload,
  BandPayload,
  Id,
  Label,
  LensPayload,
  MeasurePayload,
  Payload,
  Test,
  TrajectoryPayload,
} from "./payload.ts";
import { visible } from "./format.ts";

export interface Band {
  mean: Float32Array;
  low: Float32Array;
  high: Float32Array;
  of?: string | undefined;
}

export interface Measure {
  name: string;
  title: string;
  unit: string;
  doc: string;
  axis: "block" | "state" | "none";
  depth: string[];
  /** The state at which each column of `values` arises: block b ends in state b + 1. */
  states: number[];
  values: Float32Array;
  control: Float32Array | null;
  controlName: string;
  band: Band | null;
  controlBand: Band | null;
}

export interface Readout {
  tokens: Int32Array;
  probs: Float32Array;
}

export interface Lens extends Readout {
  labels: string[];
  states: number[];
  k: number;
  texts: string[];
  prompts: Set<Id>;
  /** Prompts of which the most probable token alone is known. */
  best: Set<Id>;
  control: Readout | null;
}

export interface Ways {
  /** Shares of the variance; NaN where they are not known. */
  explained: number[];
  coords: Float32Array;
}

export interface Trajectory extends Ways {
  labels: string[];
  axes: string[];
  states: number[];
  control: Ways | null;
}

export interface Statistic {
  name: string;
  title: string;
  doc: string;
  values: Float32Array;
  control: Float32Array | null;
}

export interface Pattern {
  prompt: Id;
  blocks: number[];
  heads: number[];
  length: number;
  values: Float32Array;
  control: Float32Array | null;
}

export interface Rollout {
  prompt: Id;
  states: number;
  length: number;
  values: Float32Array;
  /** The same of attention that is spread evenly. */
  control: Float32Array | null;
}

export interface Attention {
  blocks: number;
  heads: number;
  statistics: Statistic[];
  patterns: Pattern[];
  rollout: Rollout[];
  notes: string[];
}

export interface TokenLabel {
  name: string;
  values: Label[];
  index: Int32Array;
}

export interface Data {
  title: string;
  model: string;
  provenance: string;
  controlName: string;
  sampled: { shown: number; of: number } | null;
  ids: Id[];
  start: Int32Array;
  promptLabels: Record<string, Label[]>;
  texts: string[];
  index: Int32Array;
  special: Uint8Array | null;
  word: Uint8Array | null;
  generated: Uint8Array | null;
  tokenLabels: TokenLabel[];
  measures: Measure[];
  lens: Lens | null;
  trajectory: Trajectory | null;
  attention: Attention | null;
  tests: Test[];
  missing: Record<string, string>;
  more: Record<string, string>;
  story: { title: string; text: string }[];
  live: { url: string; token: string } | null;
  /** States are counted from 0 (input of block 0) to this one (after the last block). */
  lastState: number;
}

/** The states that columns stand for: their trailing numbers, or their order if one has none. */
export function statesOf(labels: string[], axis: "block" | "state" | "none"): number[] {
  const numbers = labels.map((label) => /(\d+)\s*$/.exec(label)?.[1]);
  const known = numbers.every((n) => n !== undefined);
  const shift = axis === "block" ? 1 : 0;
  return labels.map((_, i) => (known ? Number(numbers[i]) : i) + shift);
}

const shares = (values: (number | null)[]) => values.map((v) => v ?? NaN);
const numbers = (values: (number | null)[]) => Float32Array.from(values, (v) => v ?? NaN);

function readBand(band: BandPayload | null | undefined): Band | null {
  if (!band) return null;
  return { mean: numbers(band.mean), low: numbers(band.low), high: numbers(band.high), of: band.of };
}

function readMeasure(m: MeasurePayload, controlName: string): Measure {
  const depth = m.axis === "none" ? [""] : m.depth.map(String);
  return {
    name: m.name,
    title: m.title,
    unit: m.unit,
    doc: m.doc,
    axis: m.axis,
    depth,
    states: m.axis === "none" ? [0] : statesOf(depth, m.axis),
    values: floats(m.values),
    control: m.control ? floats(m.control) : null,
    controlName: m.control_name ?? controlName,
    band: readBand(m.band),
    controlBand: readBand(m.control_band),
  };
}

function readLens(lens: LensPayload): Lens {
  const labels = lens.states.map(String);
  const control = lens.control;
  return {
    labels,
    states: statesOf(labels, "state"),
    k: lens.k,
    texts: lens.texts,
    tokens: integers(lens.tokens),
    probs: floats(lens.probs),
    prompts: new Set(lens.prompts),
    best: new Set(lens.best ?? []),
    control: control ? { tokens: integers(control.tokens), probs: floats(control.probs) } : null,
  };
}

function readTrajectory(trajectory: TrajectoryPayload): Trajectory {
  const labels = trajectory.states.map(String);
  const control = trajectory.control;
  return {
    labels,
    states: statesOf(labels, "state"),
    axes: trajectory.axes ?? ["PC1", "PC2", "PC3"],
    explained: shares(trajectory.explained),
    coords: floats(trajectory.coords),
    control: control ? { explained: shares(control.explained), coords: floats(control.coords) } : null,
  };
}

function readAttention(attention: AttentionPayload): Attention {
  return {
    blocks: attention.blocks,
    heads: attention.heads,
    statistics: attention.statistics.map(({ name, title, doc, values, control }) => ({
      name,
      title,
      doc,
      values: floats(values),
      control: control ? floats(control) : null,
    })),
    patterns: attention.patterns.map(({ prompt, blocks, heads, values, control }) => ({
      prompt,
      blocks,
      heads,
      length: values.shape[3] ?? 0,
      values: floats(values),
      control: control ? floats(control) : null,
    })),
    rollout: (attention.rollout ?? []).map(({ prompt, values, even }) => ({
      prompt,
      states: values.shape.length === 3 ? (values.shape[0] ?? 1) : 1,
      length: values.shape[values.shape.length - 1] ?? 0,
      values: floats(values),
      control: even ? floats(even) : null,
    })),
    notes: attention.notes ?? [],
  };
}

/** Reads a payload; another schema is refused. */
export function read(payload: Payload): Data {
  if (payload.schema !== 1) {
    throw new Error(
      `This page reads data of schema 1 and was given schema ${String(payload.schema)}: write the file anew.`,
    );
  }
  const { prompts, tokens } = payload;
  const named = payload.measures.find((m) => m.control_name)?.control_name;
  const controlName = payload.control_name ?? named ?? "control";
  const measures = payload.measures.map((m) => readMeasure(m, controlName));
  const lens = payload.lens ? readLens(payload.lens) : null;
  const trajectory = payload.trajectory ? readTrajectory(payload.trajectory) : null;
  const attention = payload.attention ? readAttention(payload.attention) : null;
  const deepest = [...measures, lens, trajectory].flatMap((part) => part?.states ?? []);
  return {
    title: payload.title,
    model: payload.model,
    provenance: payload.provenance,
    controlName,
    sampled: payload.sampled ?? null,
    ids: prompts.id,
    start: integers(prompts.start),
    promptLabels: prompts.labels,
    texts: tokens.texts,
    index: integers(tokens.index),
    special: flags(tokens.special),
    word: flags(tokens.word),
    generated: flags(tokens.generated),
    tokenLabels: Object.entries(tokens.labels).map(([name, { values, index }]) => ({
      name,
      values,
      index: integers(index),
    })),
    measures,
    lens,
    trajectory,
    attention,
    tests: payload.tests ?? [],
    missing: payload.missing ?? {},
    more: payload.more ?? {},
    story: payload.story ?? [],
    live: payload.live ?? null,
    lastState: deepest.reduce((a, b) => Math.max(a, b), attention?.blocks ?? 0),
  };
}

// Questions.

export interface Span {
  first: number;
  length: number;
}

/** The tokens of the prompt that stands at a place of the list. */
export function span(data: Data, place: number): Span {
  const first = data.start[place] ?? 0;
  return { first, length: (data.start[place + 1] ?? first) - first };
}

/** The place of the prompt that a token belongs to. */
export function promptOf(data: Data, token: number): number {
  let low = 0;
  let high = data.ids.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((data.start[middle] ?? 0) <= token) low = middle;
    else high = middle - 1;
  }
  return low;
}

export const rawText = (data: Data, token: number): string => data.texts[data.index[token] ?? -1] ?? "";
export const text = (data: Data, token: number): string => visible(rawText(data, token));

/** The text of a prompt without its special tokens. */
export function sentence(data: Data, place: number, limit = 240): string {
  const { first, length } = span(data, place);
  let out = "";
  for (let i = first; i < first + length && out.length < limit; i++)
    if (!data.special?.[i]) out += rawText(data, i);
  return out.trim();
}

/** The column that shows a state: the same, or the nearest one that was recorded. */
export function column(part: { states: number[] }, state: number): number {
  let best = 0;
  let distance = Infinity;
  part.states.forEach((s, i) => {
    const d = Math.abs(s - state);
    if (d < distance) [best, distance] = [i, d];
  });
  return best;
}

export function valueOf(measure: Measure, token: number, depth: number, control = false): number {
  const values = control ? measure.control : measure.values;
  return values?.[token * measure.depth.length + depth] ?? NaN;
}

/** `block 5` or `after block 5 (state 6)`, in words that a sentence can hold; empty for one value per token. */
export function place(measure: { axis: string; depth: string[] }, depth: number): string {
  const label = measure.depth[depth] ?? "";
  if (measure.axis === "none") return "";
  if (!/^\d+$/.test(label)) return label;
  return measure.axis === "state" ? stateName(Number(label)) : `${measure.axis} ${label}`;
}

/** A state in words, the same everywhere: `input of block 0 (state 0)`, `after block 5 (state 6)`. */
export const stateName = (state: number): string =>
  `${state === 0 ? "input of block 0" : `after block ${state - 1}`} (state ${state})`;

/** The part of a name before its last point, as words: what the measure belongs to. */
export const family = (measure: Measure): string =>
  measure.name.slice(0, Math.max(0, measure.name.lastIndexOf("."))).replaceAll("_", " ");

/** The title without what it belongs to, for places where that stands already. */
export function brief(measure: Measure): string {
  const own = `${family(measure)}: `;
  return measure.title.startsWith(own) ? measure.title.slice(own.length) : measure.title;
}

export const hasControl = (data: Data): boolean =>
  data.measures.some((m) => m.control ?? m.controlBand) ||
  !!data.lens?.control ||
  !!data.trajectory?.control ||
  !!data.attention?.statistics.some((s) => s.control);

export const measureOf = (data: Data, name: string): Measure | undefined =>
  data.measures.find((m) => m.name === name) ?? data.measures[0];

/** All labels of a token, its prompt's first. */
export function labelsOf(data: Data, token: number): [string, string][] {
  const prompt = promptOf(data, token);
  const ofPrompt = Object.entries(data.promptLabels).map(([name, values]): [string, Label | undefined] => [
    name,
    values[prompt],
  ]);
  const ofToken = data.tokenLabels.map(({ name, values, index }): [string, Label | undefined] => [
    name,
    values[index[token] ?? -1],
  ]);
  return [...ofPrompt, ...ofToken].flatMap(([name, value]) =>
    value === null || value === undefined ? [] : [[name, String(value)]],
  );
}

export interface Group {
  label: string;
  value: string;
}

/** Labels with few enough values to be groups, and the values. */
export function groupings(data: Data, most = 40): { label: string; values: string[] }[] {
  const prompts = Object.entries(data.promptLabels).map(([label, values]) => ({ label, values }));
  const tokens = data.tokenLabels.map(({ name, values }) => ({ label: name, values }));
  return [...tokens, ...prompts]
    .map(({ label, values }) => ({
      label,
      values: [...new Set(values.filter((v) => v !== null).map(String))],
    }))
    .filter(({ values }) => values.length > 0 && values.length <= most);
}

/** The tokens of a group, or all; special ones are left out, as in all summaries. */
export function members(data: Data, group: Group | null): number[] {
  const out: number[] = [];
  const ofToken = data.tokenLabels.find(({ name }) => name === group?.label);
  const ofPrompt = group ? data.promptLabels[group.label] : undefined;
  data.ids.forEach((_, p) => {
    const { first, length } = span(data, p);
    const whole = !group || (!ofToken && String(ofPrompt?.[p]) === group.value);
    for (let i = first; i < first + length; i++) {
      if (data.special?.[i]) continue;
      if (whole || (ofToken && String(ofToken.values[ofToken.index[i] ?? -1]) === group.value)) out.push(i);
    }
  });
  return out;
}
