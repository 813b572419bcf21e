/** Every measure of the chosen tokens over depth, over the group's band and the control's. */

import { useMemo, useRef, useState } from "preact/hooks";
import { type Colours, coloursOf, STROKES } from "../colours.ts";
import {
  brief,
  column,
  type Data,
  family,
  type Group,
  groupings,
  type Measure,
  measureOf,
  place,
  rawText,
  span,
  text,
  valueOf,
} from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, exact, number, short, visible } from "../format.ts";
import { useFrame, useWidth } from "../hooks.ts";
import { Choose, NoControl, Panel, Subtitle } from "../parts/Controls.tsx";
import { frameOf, type Line, LineChart, type LineChartProps, type Shade } from "../parts/LineChart.tsx";
import type { Selection } from "../selection.ts";
import { useStore } from "../store.ts";
import { bandOf, membersOf } from "../summary.ts";

/** More lines than this cannot be told apart; the rest is in the table. */
const LINES = 8;
const SMALL = { width: 236, height: 118 };
const TALL = 320;

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

export function linesOf(
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

export function shadesOf(
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
export function windowOf(measure: Measure, [from, to]: [number, number]): [number, number] {
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

function chartOf({
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

function Readings({
  chart,
  at,
  data,
  measure,
}: {
  chart: LineChartProps;
  at: number;
  data: Data;
  measure: Measure;
}) {
  return (
    <>
      <p class="ix-tip-head">
        <span>{measure.title}</span>
        <span>{place(measure, at)}</span>
      </p>
      <table class="ix-values">
        <tbody>
          {chart.lines
            .filter((l) => !l.control)
            .map((l, i) => (
              <tr key={i}>
                <th scope="row">
                  <i class="ix-key" style={{ background: l.colour }} />
                  <bdi>{short(l.name, 24)}</bdi>
                </th>
                <td>{number(l.values[at])}</td>
              </tr>
            ))}
          {chart.lines
            .filter((l) => l.control)
            .map((l, i) => (
              <tr key={`c${i}`} class="ix-of-control">
                <th scope="row">
                  <bdi>{short(l.name, 34)}</bdi>
                </th>
                <td>{number(l.values[at])}</td>
              </tr>
            ))}
          {chart.shades.map(({ band, control }, i) => (
            <tr key={`b${i}`}>
              <th scope="row">{control ? `group, ${short(data.controlName, 16)}` : "group"}</th>
              <td>
                {number(band.mean[at])} ({number(band.low[at], 3)} to {number(band.high[at], 3)})
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

/** The large chart listens: a click chooses a depth, a drag a range. */
function Main({ chart, measure }: { chart: LineChartProps; measure: Measure }) {
  const store = useStore();
  const data = store.data.value;
  const [drag, setDrag] = useState<[number, number] | null>(null);
  const frame = frameOf(chart);
  const at = (event: PointerEvent & { currentTarget: EventTarget }): number => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    const raw = frame.x.invert(((event.clientX - box.left) * chart.width) / box.width);
    return Math.max(0, Math.min(measure.depth.length - 1, Math.round(raw)));
  };
  const tell = useFrame<{ x: number; y: number; i: number }>(({ x, y, i }) => {
    store.tip.value = { x, y, content: <Readings chart={chart} at={i} data={data} measure={measure} /> };
  });
  const state = (i: number) => measure.states[i] ?? 0;
  return (
    <svg
      class="ix-figure ix-brush"
      width={chart.width}
      height={chart.height}
      viewBox={`0 0 ${chart.width} ${chart.height}`}
      role="img"
      aria-label={`${measure.title} of the chosen tokens by ${measure.axis}; the numbers stand in the table below`}
      onPointerDown={(e) => {
        if (e.button !== 0 || measure.axis === "none") return;
        e.currentTarget.setPointerCapture(e.pointerId);
        const i = at(e);
        setDrag([i, i]);
      }}
      onPointerMove={(e) => {
        const i = at(e);
        if (drag && drag[1] !== i) setDrag([drag[0], i]);
        tell({ x: e.clientX, y: e.clientY, i });
      }}
      onPointerUp={() => {
        if (!drag) return;
        const [a, b] = drag[0] <= drag[1] ? drag : [drag[1], drag[0]];
        setDrag(null);
        // A block is chosen together with the state before it, so that its own step is in the range.
        if (a === b) store.select({ state: state(a) });
        else store.select({ range: [measure.axis === "block" && a === 0 ? 0 : state(a), state(b)] });
      }}
      onPointerCancel={() => {
        setDrag(null);
      }}
      onPointerLeave={() => {
        store.tip.value = null;
      }}
    >
      <LineChart
        {...chart}
        range={drag ? (drag[0] <= drag[1] ? drag : [drag[1], drag[0]]) : (chart.range ?? null)}
      />
    </svg>
  );
}

function Small({
  chart,
  measure,
  chosen,
  onChoose,
}: {
  chart: LineChartProps;
  measure: Measure;
  chosen: boolean;
  onChoose: () => void;
}) {
  const value = chart.lines.findLast((l) => !l.control)?.values[chart.column ?? 0];
  return (
    <button
      type="button"
      class="ix-small-chart"
      aria-pressed={chosen}
      onClick={onChoose}
      title={measure.doc || measure.title}
    >
      <span class="ix-small-head">
        <span>{brief(measure)}</span>
        <span class="ix-unit">{number(value, 3)}</span>
      </span>
      {measure.axis === "none" ? (
        <span class="ix-note">one value per token</span>
      ) : (
        <svg width="100%" viewBox={`0 0 ${chart.width} ${chart.height}`} aria-hidden="true">
          <LineChart {...chart} />
        </svg>
      )}
    </button>
  );
}

/** Where the lines are highest and lowest, in words. */
function Extremes({ chart, measure }: { chart: LineChartProps; measure: Measure }) {
  const told = chart.lines
    .filter((l) => !l.control)
    .slice(0, 4)
    .flatMap((l) => {
      const known = measure.depth.map((_, d) => d).filter((d) => Number.isFinite(l.values[d] ?? NaN));
      const by = (sign: number) =>
        known.reduce<number | null>(
          (best, d) => (best === null || sign * (l.values[d] ?? 0) > sign * (l.values[best] ?? 0) ? d : best),
          null,
        );
      const [most, least] = [by(1), by(-1)];
      return most === null || least === null ? [] : [{ l, most, least }];
    });
  return (
    <p class="ix-note ix-extremes">
      {told.map(({ l, most, least }, i) => (
        <span key={i}>
          <i class="ix-key" style={{ background: l.colour }} />
          <bdi class="ix-mono">{short(l.name, 18)}</bdi> highest at {place(measure, most)} (
          {number(l.values[most])}), lowest at {place(measure, least)} ({number(l.values[least])})
        </span>
      ))}
    </p>
  );
}

/** All numbers of the large chart, for reading, screen readers and tests. */
function NumbersTable({
  data,
  measure,
  tokens,
  first,
  control,
}: {
  data: Data;
  measure: Measure;
  tokens: number[];
  first: number;
  control: boolean;
}) {
  const [open, setOpen] = useState(false);
  const names = tokenNames(data, tokens, first);
  const sides = control && measure.control ? [false, true] : [false];
  return (
    <details
      class="ix-numbers"
      onToggle={(e) => {
        setOpen(e.currentTarget.open);
      }}
    >
      <summary>Numbers</summary>
      {open && (
        <div class="ix-scroll" tabIndex={0} role="region" aria-label="Numbers">
          <table class="ix-table">
            <thead>
              <tr>
                <th scope="col">token</th>
                {measure.depth.map((d, i) => (
                  <th key={i} scope="col">
                    {d || measure.title}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {tokens.flatMap((token, t) =>
                sides.map((side) => (
                  <tr key={`${token}${side}`} class={side ? "ix-of-control" : ""}>
                    <th scope="row">
                      <bdi>{short(names[t] ?? "", 24)}</bdi>
                      {side && ` (${short(data.controlName, 16)})`}
                    </th>
                    {measure.depth.map((_, d) => {
                      const value = valueOf(measure, token, d, side);
                      return (
                        <td
                          key={d}
                          data-measure={measure.name}
                          data-token={token}
                          data-depth={d}
                          data-value={exact(value)}
                          data-control={side ? "true" : undefined}
                        >
                          {number(value)}
                        </td>
                      );
                    })}
                  </tr>
                )),
              )}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}

export function groupOptions(data: Data) {
  return [
    { value: "", text: "all tokens" },
    ...groupings(data).flatMap(({ label, values }) =>
      values.map((value) => ({ value: `${label}\u001f${value}`, text: visible(value), heading: label })),
    ),
  ];
}

export function parseGroup(value: string): Group | null {
  const [label, of] = value.split("\u001f");
  return label && of !== undefined ? { label, value: of } : null;
}

/** A sentence with its full stop. */
const ended = (text: string) => (/[.!?]$/.test(text) ? text : `${text}.`);

const groupName = (group: Group | null) =>
  group ? `${group.label} = ${visible(group.value)}` : "all tokens";

function savedOf(data: Data, measure: Measure, selection: Selection, tokens: number[], first: number): Saved {
  const { group, control } = selection;
  const base = { data, selection, tokens, first, colours: coloursOf("light") };
  const others = data.measures.filter((m) => m.name !== measure.name && m.axis !== "none");
  const [perRow, gap] = [3, 16];
  const figure = () => {
    const main = chartOf({ ...base, measure, width: 860, height: TALL, small: false });
    const size = { width: (860 - (perRow - 1) * gap) / perRow, height: 130 };
    const content = (
      <g>
        <LineChart {...main} />
        {others.map((m, i) => (
          <g
            key={m.name}
            transform={`translate(${(i % perRow) * (size.width + gap)} ${TALL + 26 + Math.floor(i / perRow) * (size.height + 28)})`}
          >
            <text y={-2} font-size={11} font-weight={600} fill={base.colours.ink}>
              {short(m.title, 40)}
            </text>
            <LineChart {...chartOf({ ...base, measure: m, ...size, small: true })} />
          </g>
        ))}
      </g>
    );
    return {
      content,
      width: 860,
      height: TALL + 26 + Math.ceil(others.length / perRow) * (size.height + 28),
    };
  };
  const sheet = () => {
    const columns = [
      "prompt",
      "position",
      "token",
      "measure",
      "unit",
      "depth",
      "value",
      "control",
      "group_mean",
      "group_p10",
      "group_p90",
    ];
    const rows = data.measures.flatMap((m) => {
      const band = bandOf(data, m, group);
      return tokens.flatMap((token) =>
        m.depth.map((d, i): Cell[] => [
          data.ids[selection.prompt] ?? 0,
          token - first,
          JSON.stringify(rawText(data, token)),
          m.name,
          m.unit,
          d,
          valueOf(m, token, i),
          control ? valueOf(m, token, i, true) : null,
          band?.mean[i] ?? NaN,
          band?.low[i] ?? NaN,
          band?.high[i] ?? NaN,
        ]),
      );
    });
    return { columns, rows };
  };
  return {
    name: [data.title, "layers", `prompt ${data.ids[selection.prompt] ?? 0}`],
    title: `${measure.title}; band: ${groupName(group)}${control && measure.control ? `; grey: ${data.controlName}` : ""}`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

function Controls({ measure, drawn }: { measure: Measure; drawn: number }) {
  const store = useStore();
  const data = store.data.value;
  const { group, range, control } = store.selection.value;
  const narrowed = range[0] > 0 || range[1] < data.lastState;
  const value = group ? `${group.label}\u001f${group.value}` : "";
  return (
    <>
      <Choose
        label="Band"
        value={value}
        options={groupOptions(data)}
        onChoose={(to) => {
          store.select({ group: parseGroup(to) });
        }}
      />
      {narrowed && (
        <button
          type="button"
          class="ix-small"
          onClick={() => {
            store.select({ range: [0, data.lastState] });
          }}
        >
          Whole depth
        </button>
      )}
      {control && measure.control && (
        <span class="ix-legend-note">
          <i class="ix-dash" /> grey: {short(measure.controlName, 30)}
        </span>
      )}
      {drawn > LINES && (
        <span class="ix-legend-note">
          {LINES} of {drawn} chosen tokens are drawn; all are in the table.
        </span>
      )}
    </>
  );
}

export function LayersView() {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const selection = store.selection.value;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const { first } = span(data, selection.prompt);
  const tokens = useMemo(
    () => selection.tokens.map((position) => first + position),
    [selection.tokens, first],
  );
  const measure = measureOf(data, selection.measure);
  const base = { data, selection, tokens, first, colours };
  const others = useMemo(
    () => data.measures.map((m) => ({ m, chart: chartOf({ ...base, measure: m, ...SMALL, small: true }) })),
    [
      data,
      selection.tokens,
      selection.prompt,
      selection.group,
      selection.control,
      selection.state,
      selection.range,
      colours,
    ],
  );
  if (!measure)
    return (
      <Panel view="layers" title="Layers">
        <p class="ix-note">This file holds no measure of tokens.</p>
      </Panel>
    );
  const chart = chartOf({ ...base, measure, width, height: TALL, small: false });
  const count = membersOf(data, selection.group).length;
  const of = selection.group ? `${count} tokens with ${groupName(selection.group)}` : "all ordinary tokens";
  const bandName = (!selection.group && measure.band?.of) || `mean and the middle 80 % of ${of}`;
  return (
    <Panel
      view="layers"
      title={measure.title}
      saved={savedOf(data, measure, selection, tokens, first)}
      hint={
        <>
          {measure.doc && `${ended(measure.doc)} `}Lines are the chosen tokens; the band is the {bandName}.
          Click for a layer, drag for a range.
        </>
      }
      controls={<Controls measure={measure} drawn={tokens.length} />}
    >
      {selection.control && !measure.control && <NoControl what={`values of ${measure.title}`} />}
      <div ref={box}>
        {measure.axis === "none" ? (
          <p class="ix-note">One value per token; see the table.</p>
        ) : (
          <Main chart={chart} measure={measure} />
        )}
      </div>
      {measure.axis !== "none" && <Extremes chart={chart} measure={measure} />}
      <NumbersTable data={data} measure={measure} tokens={tokens} first={first} control={selection.control} />
      {[...new Set(others.map(({ m }) => family(m)))].map((name) => (
        <div key={name} class="ix-family" role="group" aria-label={name || "All measures"}>
          {name && <Subtitle>{name}</Subtitle>}
          <div class="ix-smalls">
            {others
              .filter(({ m }) => family(m) === name)
              .map(({ m, chart: small }) => (
                <Small
                  key={m.name}
                  chart={small}
                  measure={m}
                  chosen={m.name === measure.name}
                  onChoose={() => {
                    store.select({ measure: m.name });
                  }}
                />
              ))}
          </div>
        </div>
      ))}
    </Panel>
  );
}
