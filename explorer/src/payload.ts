/** The payload as Python writes it: schema 1. Nothing here knows how it is drawn. */

export interface Packed {
  dtype: "f4" | "f2" | "i4" | "u1" | "u2";
  shape: number[];
  data: string;
  zip?: boolean;
  shuffle?: boolean;
}

/** A prompt's number, or a text where there are several of one number (`0 encoder`). */
export type Id = string | number;
export type Label = string | number | boolean | null;

export interface BandPayload {
  mean: (number | null)[];
  low: (number | null)[];
  high: (number | null)[];
  /** What mean and edges are, if they are not those that the page computes. */
  of?: string;
}

export interface MeasurePayload {
  name: string;
  title: string;
  unit: string;
  doc: string;
  axis: "block" | "state" | "none";
  depth: (string | number)[];
  values: Packed;
  control?: Packed | null;
  control_name?: string | null;
  band?: BandPayload | null;
  control_band?: BandPayload | null;
}

export interface LensPayload {
  states: (string | number)[];
  k: number;
  texts: string[];
  tokens: Packed;
  probs: Packed;
  /** Prompts with readings; of those in `best` the most probable token alone. */
  prompts: Id[];
  best?: Id[];
  control?: { tokens: Packed; probs: Packed } | null;
}

export interface TrajectoryPayload {
  states: (string | number)[];
  axes?: string[];
  explained: (number | null)[];
  coords: Packed;
  control?: { explained: (number | null)[]; coords: Packed } | null;
}

export interface PatternPayload {
  prompt: Id;
  blocks: number[];
  heads: number[];
  values: Packed;
  control?: Packed | null;
}

export interface StatisticPayload {
  name: string;
  title: string;
  doc: string;
  values: Packed;
  control?: Packed | null;
}

export interface AttentionPayload {
  blocks: number;
  heads: number;
  statistics: StatisticPayload[];
  patterns: PatternPayload[];
  rollout?: { prompt: Id; values: Packed; even?: Packed | null }[] | null;
  notes?: string[];
}

export interface Test {
  measure: string;
  text: string;
  between?: string;
  a?: string;
  b?: string;
  depth?: (string | number)[];
  difference?: (number | null)[];
  low?: (number | null)[];
  high?: (number | null)[];
  p?: (number | null)[];
}

export interface Payload {
  schema: number;
  title: string;
  model: string;
  provenance: string;
  control_name?: string | null;
  sampled?: { shown: number; of: number } | null;
  prompts: { id: Id[]; start: Packed; labels: Record<string, Label[]> };
  tokens: {
    texts: string[];
    index: Packed;
    special?: Packed | null;
    word?: Packed | null;
    generated?: Packed | null;
    labels: Record<string, { values: Label[]; index: Packed }>;
  };
  measures: MeasurePayload[];
  lens?: LensPayload | null;
  trajectory?: TrajectoryPayload | null;
  attention?: AttentionPayload | null;
  tests?: Test[];
  missing?: Record<string, string>;
  more?: Record<string, string>;
  story?: { title: string; text: string }[] | null;
  live?: { url: string; token: string } | null;
  continues?: boolean;
}
