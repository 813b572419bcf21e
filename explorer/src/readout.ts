/** Reading the lens: the most probable tokens of a cell, and the place of a token that is sought. */

import type { Lens } from "./data.ts";
import { visible } from "./format.ts";

export interface Read {
  raw: string;
  text: string;
  prob: number;
}

/** The tokens of a cell, the most probable first; none where nothing was read. `state` is a column. */
export function readoutAt(lens: Lens, token: number, state: number, control = false): Read[] {
  const from = control ? lens.control : lens;
  if (!from) return [];
  const at = (token * lens.states.length + state) * lens.k;
  const out: Read[] = [];
  for (let i = at; i < at + lens.k; i++) {
    const id = from.tokens[i] ?? -1;
    if (id < 0) continue;
    const raw = lens.texts[id] ?? "";
    out.push({ raw, text: visible(raw), prob: from.probs[i] ?? NaN });
  }
  return out;
}

/** The vocabulary's tokens that a reader may mean: as typed, or with white space around it. */
export function sought(lens: Lens, typed: string): Set<number> {
  const out = new Set<number>();
  if (!typed) return out;
  const bare = typed.trim();
  lens.texts.forEach((raw, id) => {
    if (raw === typed || visible(raw) === typed || (bare && typed === bare && raw.trim() === bare))
      out.add(id);
  });
  return out;
}

export interface Found {
  /** 1 = the most probable token. */
  rank: number;
  prob: number;
}

/** Rank and probability of the sought tokens among the k of a cell; null if it is not among them. */
export function find(
  lens: Lens,
  wanted: Set<number>,
  token: number,
  state: number,
  control = false,
): Found | null {
  const from = control ? lens.control : lens;
  if (!from) return null;
  const at = (token * lens.states.length + state) * lens.k;
  for (let i = 0; i < lens.k; i++) {
    if (wanted.has(from.tokens[at + i] ?? -1)) return { rank: i + 1, prob: from.probs[at + i] ?? NaN };
  }
  return null;
}
