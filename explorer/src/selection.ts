/** What is selected: one value that every view follows, and its form in the address. */

import { type Data, type Group, hasControl, span, type Statistic } from "./data.ts";

export const VIEWS = ["layers", "lens", "trajectory", "attention", "compare"] as const;
export type View = (typeof VIEWS)[number];
export const MODES = ["prompts", "tokens", "groups"] as const;
export type Mode = (typeof MODES)[number];

export interface Selection {
  view: View;
  /** The place of the prompt in the list. */
  prompt: number;
  /** Positions in the prompt; the last one is the one that the keyboard moves. */
  tokens: number[];
  /** Depth, counted in states: 0 is the input of block 0, s the output of block s - 1. */
  state: number;
  /** First and last state of the chosen range. */
  range: [number, number];
  measure: string;
  head: [number, number];
  statistic: string;
  control: boolean;
  /** The group whose band stands behind the lines; all tokens if there is none. */
  group: Group | null;
  mode: Mode;
  /** The other side of a comparison. */
  otherPrompt: number;
  otherToken: number;
  otherGroup: Group | null;
  /** What the reader looks for in the lens. */
  sought: string;
  solid: boolean;
  rollout: boolean;
}

const PREFIX = "#explorer?";

const group = (g: Group | null) => (g ? `${g.label}\u001f${g.value}` : null);

function readGroup(text: string | null): Group | null {
  const [label, value] = text?.split("\u001f") ?? [];
  return label !== undefined && value !== undefined ? { label, value } : null;
}

/** The address of a selection; what stands at its usual value is left out. */
export function toAddress(data: Data, s: Selection): string {
  const usual = initial(data);
  const words = new URLSearchParams();
  const put = (key: string, value: string | null, other: string | null) => {
    if (value !== other && value !== null) words.set(key, value);
  };
  words.set("view", s.view);
  words.set("p", String(data.ids[s.prompt] ?? 0));
  words.set("t", s.tokens.join(","));
  words.set("s", String(s.state));
  put("r", s.range.join("-"), usual.range.join("-"));
  put("m", s.measure, "");
  put("h", s.head.join("."), usual.head.join("."));
  put("k", s.statistic, usual.statistic);
  put("c", s.control ? "1" : "0", "0");
  put("g", group(s.group), null);
  put("mode", s.mode, usual.mode);
  const other = usualOther(data, s.prompt);
  put("op", String(data.ids[s.otherPrompt] ?? 0), String(data.ids[other.otherPrompt] ?? 0));
  put("ot", String(s.otherToken), String(other.otherToken));
  put("og", group(s.otherGroup), null);
  put("q", s.sought, "");
  put("d", s.solid ? "3" : "2", "2");
  put("a", s.rollout ? "rollout" : "head", "head");
  // Commas are legal there, and addresses are read by people too.
  return PREFIX + words.toString().replaceAll("%2C", ",");
}

const integers = (text: string | null, cut: RegExp): number[] =>
  (text ?? "")
    .split(cut)
    .filter((t) => /^\d+$/.test(t))
    .map(Number);

const oneOf = <T extends string>(all: readonly T[], text: string | null, otherwise: T): T =>
  all.find((one) => one === text) ?? otherwise;

/** The selection that an address holds, or null if it is not one of the explorer's. */
export function fromAddress(data: Data, hash: string): Selection | null {
  if (!hash.startsWith(PREFIX)) return null;
  const words = new URLSearchParams(hash.slice(PREFIX.length));
  const usual = initial(data);
  const prompt = (key: string, otherwise: number) => {
    const place = words.has(key) ? data.ids.map(String).indexOf(words.get(key) ?? "") : -1;
    return place < 0 ? otherwise : place;
  };
  const pair = (key: string, cut: RegExp, otherwise: [number, number]): [number, number] => {
    const [a, b] = integers(words.get(key), cut);
    return a !== undefined && b !== undefined ? [a, b] : otherwise;
  };
  const own = prompt("p", usual.prompt);
  const other = usualOther(data, own);
  return clamp(data, {
    view: oneOf(VIEWS, words.get("view"), usual.view),
    prompt: own,
    tokens: integers(words.get("t"), /,/),
    state: integers(words.get("s"), /,/)[0] ?? usual.state,
    range: pair("r", /-/, usual.range),
    measure: words.get("m") ?? usual.measure,
    head: pair("h", /\./, usual.head),
    statistic: words.get("k") ?? usual.statistic,
    control: words.get("c") === "1",
    group: readGroup(words.get("g")),
    mode: oneOf(MODES, words.get("mode"), usual.mode),
    otherPrompt: prompt("op", other.otherPrompt),
    otherToken: integers(words.get("ot"), /,/)[0] ?? other.otherToken,
    otherGroup: readGroup(words.get("og")),
    sought: words.get("q") ?? "",
    solid: words.get("d") === "3",
    rollout: words.get("a") === "rollout",
  });
}

const within = (value: number, low: number, high: number) =>
  Math.max(low, Math.min(high, Number.isFinite(value) ? value : low));

/** The nearest selection that the data have. */
export function clamp(data: Data, s: Selection): Selection {
  const prompt = within(s.prompt, 0, Math.max(0, data.ids.length - 1));
  const { length } = span(data, prompt);
  const tokens = [...new Set(s.tokens)].filter((t) => t >= 0 && t < length);
  const otherPrompt = within(s.otherPrompt, 0, Math.max(0, data.ids.length - 1));
  const [a, b] = s.range.map((state) => within(state, 0, data.lastState)) as [number, number];
  return {
    ...s,
    prompt,
    otherPrompt,
    control: s.control && hasControl(data),
    tokens: tokens.length || !length ? tokens : [firstOrdinary(data, prompt)],
    state: within(s.state, 0, data.lastState),
    range: a <= b ? [a, b] : [b, a],
    measure: data.measures.some((m) => m.name === s.measure) ? s.measure : (data.measures[0]?.name ?? ""),
    head: [
      within(s.head[0], 0, (data.attention?.blocks ?? 1) - 1),
      within(s.head[1], 0, (data.attention?.heads ?? 1) - 1),
    ],
    otherToken: within(s.otherToken, 0, Math.max(0, span(data, otherPrompt).length - 1)),
  };
}

/** The position that is chosen in a prompt that was just opened: a labelled target, or an ordinary token. */
export function firstOrdinary(data: Data, prompt: number): number {
  const { first, length } = span(data, prompt);
  const role = data.tokenLabels.find(({ name }) => name === "role");
  const target = role ? role.values.indexOf("target") : -1;
  let ordinary = -1;
  for (let i = 0; i < length; i++) {
    if (role && target >= 0 && role.index[first + i] === target) return i;
    if (ordinary < 0 && !data.special?.[first + i]) ordinary = i;
  }
  return Math.max(0, ordinary);
}

/** Attention on the previous token is the plainest thing that a head can do, so it comes first. */
const usualStatistic = (data: Data): Statistic | undefined =>
  data.attention?.statistics.find(({ name }) => name.endsWith("previous")) ?? data.attention?.statistics[0];

/** The block and head with the largest value. */
function strongest(data: Data, statistic: Statistic | undefined): [number, number] {
  const heads = data.attention?.heads ?? 1;
  let best = 0;
  statistic?.values.forEach((value, i) => {
    if (value > (statistic.values[best] ?? NaN) || Number.isNaN(statistic.values[best])) best = i;
  });
  return [Math.floor(best / heads), best % heads];
}

/** What a prompt is compared with until the reader chooses: never with itself, where there are two. */
export function usualOther(data: Data, prompt: number): Pick<Selection, "otherPrompt" | "otherToken"> {
  const otherPrompt = prompt === 1 || data.ids.length < 2 ? 0 : 1;
  return { otherPrompt, otherToken: firstOrdinary(data, otherPrompt) };
}

/** What a reader sees first. */
export function initial(data: Data): Selection {
  const statistic = usualStatistic(data);
  return {
    view: "layers",
    prompt: 0,
    tokens: [firstOrdinary(data, 0)],
    state: Math.ceil(data.lastState / 2),
    range: [0, data.lastState],
    measure: data.measures[0]?.name ?? "",
    head: strongest(data, statistic),
    statistic: statistic?.name ?? "",
    control: false,
    group: null,
    mode: "prompts",
    ...usualOther(data, 0),
    otherGroup: null,
    sought: "",
    solid: false,
    rollout: false,
  };
}
