/** What the lines and bands of a chart over depth are. */

import { type Colours, STROKES } from "./colours.ts";
import { column, type Data, type Group, type Measure, text } from "./data.ts";
import { short } from "./format.ts";
import type { Line, LineChartProps, Shade } from "./parts/LineChart.tsx";
import type { Selection } from "./selection.ts";
import { bandOf } from "./summary.ts";

/** More lines than this cannot be told apart; the rest is in the table. */
export const LINES = 8;
const row = (measure: Measure, token: number, control: boolean): Float32Array => {
  const values = control ? measure.control : measure.values;
  const n = measure.depth.length;
  return values ? values.subarray(token * n, (token + 1) * n) : new Float32Array(n).fill(NaN);
};

/** Names of chosen tokens; equal texts are told apart by their position. */
export function tokenNames(data: Data, tokens: number[], first: number): string[] {
  const texts = tokens.map((token) => text(data, token));
  return texts.map((t, i) =>
    texts.indexOf(t) === texts.lastIndexOf(t) ? t : `${short(t, 9)} @${(tokens[i] ?? 0) - first}`,
  );
}

function linesOf(
  data: Data,
  measure: Measure,
  tokens: number[],
  first: number,
  control: boolean,
  colours: Colours,
): Line[] {
  const names = tokenNames(data, tokens, first);
  const few = tokens.slice(0, LINES);
  const own = few.map((token, i): Line => ({
    name: names[i] ?? "",
    values: row(measure, token, false),
    colour: colours.tokens[i] ?? colours.ink,
    stroke: STROKES[i] ?? "",
  }));
  if (!control || !measure.control) return own;
  return [
    ...few.map((token, i): Line => ({
      name: `${names[i] ?? ""} (${data.controlName})`,
      values: row(measure, token, true),
      control: true,
      colour: colours.control,
      stroke: STROKES[i] || "1 3",
      width: 1.5,
    })),
    ...own,
  ];
}

function shadesOf(
  data: Data,
  measure: Measure,
  group: Group | null,
  control: boolean,
  colours: Colours,
): Shade[] {
  const own = bandOf(data, measure, group);
  const other = control ? bandOf(data, measure, group, true) : null;
  return [
    ...(other ? [{ band: other, colour: colours.control, control: true }] : []),
    ...(own ? [{ band: own, colour: colours.band }] : []),
  ];
}

/** Columns of a measure inside the chosen range of states. */
function windowOf(measure: Measure, [from, to]: [number, number]): [number, number] {
  const inside = measure.states.flatMap((s, i) => (s >= from && s <= to ? [i] : []));
  const [a, b] = [inside[0], inside[inside.length - 1]];
  return a === undefined || b === undefined ? [0, measure.depth.length - 1] : [a, b];
}

const whole = (measure: Measure): [number, number] => [0, measure.depth.length - 1];
const axisName = (measure: Measure) => (measure.axis === "block" ? "block" : "state (0 = input of block 0)");

interface Chart {
  data: Data;
  measure: Measure;
  selection: Selection;
  tokens: number[];
  first: number;
  colours: Colours;
  width: number;
  height: number;
  small: boolean;
}

export function chartOf({
  data,
  measure,
  selection,
  tokens,
  first,
  colours,
  width,
  height,
  small,
}: Chart): LineChartProps {
  const { group, control, state, range } = selection;
  const narrowed = range[0] > 0 || range[1] < data.lastState;
  return {
    width,
    height,
    colours,
    small,
    labels: measure.depth,
    axis: axisName(measure),
    unit: measure.unit,
    lines: linesOf(data, measure, tokens, first, control, colours),
    shades: shadesOf(data, measure, group, control, colours),
    window: small ? windowOf(measure, range) : whole(measure),
    range: !small && narrowed ? windowOf(measure, range) : null,
    column: column(measure, state),
  };
}
