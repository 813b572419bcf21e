/** Two prompts, tokens or groups side by side: aligned, with their difference and its test. */

import { useMemo, useRef, useState } from "preact/hooks";
import { align, type Pair } from "../align.ts";
import { type Colours, coloursOf, inkOn, type Scale } from "../colours.ts";
import {
  type Band,
  column,
  type Data,
  type Group,
  groupings,
  type Measure,
  measureOf,
  place,
  sentence,
  span,
  text,
  valueOf,
} from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, exact, number, short, visible } from "../format.ts";
import { useFrame, useWidth } from "../hooks.ts";
import { Choose, NoControl, Panel, Segments, Subtitle } from "../parts/Controls.tsx";
import { frameOf, LineChart, type LineChartProps } from "../parts/LineChart.tsx";
import { TokenValues } from "../parts/Tip.tsx";
import type { Mode, Selection } from "../selection.ts";
import { firstOrdinary } from "../selection.ts";
import { useStore } from "../store.ts";
import { differences, type Estimate, estimates, membersOf } from "../summary.ts";
import { groupOptions, parseGroup } from "./Layers.tsx";
import { kindOf, useTextScale } from "./Text.tsx";

interface Side {
  name: string;
  tokens: number[];
}

const MOST_PAIRS = 400;

const ordinary = (data: Data, prompt: number): number[] => {
  const { first, length } = span(data, prompt);
  return Array.from({ length }, (_, i) => first + i).filter((token) => !data.special?.[token]);
};

/** Two groups to begin with: the first two values of the first label. */
export function usualGroups(data: Data): [Group | null, Group | null] {
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

function sidesOf(data: Data, s: Selection): [Side, Side] {
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

interface Compared {
  measure: Measure;
  a: Estimate[];
  b: Estimate[];
  difference: (Estimate & { paired: boolean })[];
  control: { a: Estimate[]; b: Estimate[]; difference: Estimate[] } | null;
}

function compared(data: Data, measure: Measure, [a, b]: [Side, Side], control: boolean): Compared {
  const of = (side: boolean) => ({
    a: estimates(data, measure, a.tokens, side),
    b: estimates(data, measure, b.tokens, side),
    difference: differences(data, measure, a.tokens, b.tokens, side),
  });
  return { measure, ...of(false), control: control && measure.control ? of(true) : null };
}

const means = (estimates: Estimate[]) => estimates.map((e) => e.mean);
const bandFrom = (estimates: Estimate[]): Band => ({
  mean: Float32Array.from(estimates, (e) => e.mean),
  low: Float32Array.from(estimates, (e) => e.low),
  high: Float32Array.from(estimates, (e) => e.high),
});
const hasInterval = (estimates: Estimate[]) => estimates.some((e) => Number.isFinite(e.low));

function chartsOf(
  data: Data,
  c: Compared,
  selection: Selection,
  colours: Colours,
  width: number,
): [LineChartProps, LineChartProps] {
  const { measure, control } = c;
  const last = measure.depth.length - 1;
  const base = {
    width,
    colours,
    labels: measure.depth,
    axis: measure.axis === "block" ? "block" : "state",
    unit: measure.unit,
    room: 58,
    window: [0, last] as [number, number],
    column: column(measure, selection.state),
  };
  const [ca, cb, cd] = [colours.tokens[0] ?? "", colours.tokens[1] ?? "", colours.tokens[7] ?? ""];
  const shade = (estimates: Estimate[], colour: string) =>
    hasInterval(estimates) ? [{ band: bandFrom(estimates), colour }] : [];
  const grey = (estimates: Estimate[], name: string, stroke: string) => ({
    name,
    values: means(estimates),
    colour: colours.control,
    stroke,
    control: true,
    width: 1.75,
  });
  const both: LineChartProps = {
    ...base,
    height: 250,
    lines: [
      ...(control
        ? [
            grey(control.a, `A (${data.controlName})`, "5 3"),
            grey(control.b, `B (${data.controlName})`, "2 3"),
          ]
        : []),
      { name: "A", values: means(c.a), colour: ca, stroke: "" },
      { name: "B", values: means(c.b), colour: cb, stroke: "7 3" },
    ],
    shades: [...shade(c.a, ca), ...shade(c.b, cb)],
  };
  const difference: LineChartProps = {
    ...base,
    height: 210,
    zero: true,
    lines: [
      ...(control ? [grey(control.difference, `A − B (${data.controlName})`, "5 3")] : []),
      { name: "A − B", values: means(c.difference), colour: cd, stroke: "" },
    ],
    shades: [
      ...(control && hasInterval(control.difference)
        ? [{ band: bandFrom(control.difference), colour: colours.control, control: true }]
        : []),
      ...shade(c.difference, cd),
    ],
  };
  return [both, difference];
}

const interval = (e: Estimate) =>
  Number.isFinite(e.low) ? ` (95 % interval ${number(e.low, 3)} to ${number(e.high, 3)})` : "";

/** The difference at the chosen depth in words, and the control's. */
export function said(data: Data, c: Compared, state: number): string[] {
  const d = column(c.measure, state);
  const [a, b, difference] = [c.a[d], c.b[d], c.difference[d]];
  if (!a || !b || !difference) return [];
  const unit = c.measure.unit ? ` ${c.measure.unit}` : "";
  const where = place(c.measure, d);
  const out = [
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

function ChartWithReadings({
  chart,
  c,
  label,
  which,
}: {
  chart: LineChartProps;
  c: Compared;
  label: string;
  which: "both" | "difference";
}) {
  const store = useStore();
  const data = store.data.value;
  const frame = frameOf(chart);
  const at = (event: PointerEvent | MouseEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    return Math.max(
      0,
      Math.min(c.measure.depth.length - 1, Math.round(frame.x.invert(event.clientX - box.left))),
    );
  };
  const tell = useFrame<{ x: number; y: number; i: number }>(({ x, y, i }) => {
    const row = (name: string, e: Estimate | undefined) =>
      e && (
        <tr key={name}>
          <th scope="row">{name}</th>
          <td>
            {number(e.mean)}
            {interval(e)}
          </td>
        </tr>
      );
    const control = c.control;
    store.tip.value = {
      x,
      y,
      content: (
        <>
          <p class="ix-tip-head">
            <span>{c.measure.title}</span>
            <span>{place(c.measure, i)}</span>
          </p>
          <table class="ix-values">
            <tbody>
              {which === "both" ? [row("A", c.a[i]), row("B", c.b[i])] : row("A − B", c.difference[i])}
              {control &&
                (which === "both"
                  ? [row(`A, ${data.controlName}`, control.a[i]), row(`B, ${data.controlName}`, control.b[i])]
                  : row(`A − B, ${data.controlName}`, control.difference[i]))}
            </tbody>
          </table>
        </>
      ),
    };
  });
  return (
    <svg
      class="ix-figure ix-click"
      width={chart.width}
      height={chart.height}
      role="img"
      aria-label={label}
      onPointerMove={(e) => {
        tell({ x: e.clientX, y: e.clientY, i: at(e) });
      }}
      onPointerLeave={() => {
        store.tip.value = null;
      }}
      onClick={(e) => {
        store.select({ state: c.measure.states[at(e)] ?? 0 });
      }}
    >
      <LineChart {...chart} />
    </svg>
  );
}

function NumbersTable({ c }: { c: Compared }) {
  const [open, setOpen] = useState(false);
  const rows = [
    ["a", "A", c.a],
    ["b", "B", c.b],
    ["difference", "A − B", c.difference],
  ] as const;
  const control = c.control;
  const others = control
    ? ([
        ["a", "A, control", control.a],
        ["b", "B, control", control.b],
        ["difference", "A − B, control", control.difference],
      ] as const)
    : [];
  const line = (side: string, name: string, estimates: Estimate[], of: boolean) => (
    <tr key={name} class={of ? "ix-of-control" : ""}>
      <th scope="row">{name}</th>
      {estimates.map((e, d) => (
        <td
          key={d}
          data-side={side}
          data-depth={d}
          data-measure={c.measure.name}
          data-value={exact(e.mean)}
          data-low={exact(e.low)}
          data-high={exact(e.high)}
          data-control={of ? "true" : undefined}
        >
          {number(e.mean)}
        </td>
      ))}
    </tr>
  );
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
                <th scope="col">side</th>
                {c.measure.depth.map((d, i) => (
                  <th key={i} scope="col">
                    {d || c.measure.title}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.map(([side, name, e]) => line(side, name, e, false))}
              {others.map(([side, name, e]) => line(side, name, e, true))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}

interface PairsProps {
  data: Data;
  pairs: Pair[];
  firsts: [number, number];
  measure: Measure;
  depth: number;
  paint: Scale;
  colours: Colours;
  chosen: number[];
}

function half(p: PairsProps, side: 0 | 1, position: number | null) {
  if (position === null) return <span class="ix-gap" role="img" aria-label="no token" />;
  const token = p.firsts[side] + position;
  const value = valueOf(p.measure, token, p.depth);
  const fill = p.paint.colour(value);
  const kinds = [
    kindOf(p.data, token, p.firsts[side]).replace("ix-word", ""),
    Number.isNaN(value) ? "ix-undefined" : "",
    side === 0 && p.chosen.includes(position) ? "ix-chosen" : "",
  ];
  return (
    <button
      type="button"
      tabIndex={-1}
      class={kinds.join(" ")}
      dir="auto"
      style={Number.isNaN(value) ? undefined : { background: fill, color: inkOn(fill, p.colours) }}
      data-token={token}
      data-position={position}
      data-side={side ? "b" : "a"}
      data-measure={p.measure.name}
      data-depth={p.depth}
      data-value={exact(value)}
    >
      {short(text(p.data, token), 20)}
    </button>
  );
}

/** Both prompts above each other; equal tokens face each other. */
function Pairs(p: PairsProps) {
  const store = useStore();
  const at = (event: Event) =>
    event.target instanceof Element ? event.target.closest<HTMLElement>("[data-token]") : null;
  return (
    <div
      class="ix-pairs"
      role="group"
      aria-label="Aligned tokens: A above, B below, difference under them"
      onPointerOver={(event) => {
        const chip = at(event);
        if (!chip) return;
        const box = chip.getBoundingClientRect();
        store.tip.value = {
          x: box.left,
          y: box.bottom,
          content: <TokenValues token={Number(chip.dataset["token"])} />,
        };
      }}
      onPointerLeave={() => {
        store.tip.value = null;
      }}
      onClick={(event) => {
        const chip = at(event);
        if (!chip) return;
        const position = Number(chip.dataset["position"]);
        if (chip.dataset["side"] === "a") store.choose(position, event.shiftKey);
        else store.select({ otherToken: position });
      }}
    >
      <div class="ix-pair ix-pair-names" aria-hidden="true">
        <b>A</b>
        <b>B</b>
        <small>A − B</small>
      </div>
      {p.pairs.slice(0, MOST_PAIRS).map((pair, i) => {
        const both = pair.a !== null && pair.b !== null;
        const difference = both
          ? valueOf(p.measure, p.firsts[0] + (pair.a ?? 0), p.depth) -
            valueOf(p.measure, p.firsts[1] + (pair.b ?? 0), p.depth)
          : NaN;
        return (
          <div key={i} class={pair.same ? "ix-pair" : "ix-pair ix-unlike"}>
            {half(p, 0, pair.a)}
            {half(p, 1, pair.b)}
            <small data-difference={exact(difference)}>{number(difference, 3)}</small>
          </div>
        );
      })}
    </div>
  );
}

/** Chooses the other prompt by number or by words, however many there are. */
function OtherPrompt() {
  const store = useStore();
  const data = store.data.value;
  const { otherPrompt } = store.selection.value;
  const [typed, setTyped] = useState<string | null>(null);
  const near = useMemo(() => {
    const words = (typed ?? "").toLowerCase().replace(/^#/, "");
    const out: number[] = [];
    for (let p = 0; p < data.ids.length && out.length < 30; p++) {
      if (String(data.ids[p]) === words || sentence(data, p).toLowerCase().includes(words)) out.push(p);
    }
    return out;
  }, [data, typed]);
  const name = (p: number) =>
    `#${data.ids[p] ?? 0} ${short(visible(sentence(data, p).replace(/\s+/g, " ")), 60)}`;
  const take = (value: string) => {
    setTyped(value);
    const typedId = value.replace(/^#/, "");
    const named = near.find((p) => name(p) === value);
    const p = named ?? data.ids.map(String).indexOf(typedId);
    if (p >= 0) store.select({ otherPrompt: p, otherToken: firstOrdinary(data, p) });
  };
  const step = (by: number) => {
    const p = Math.max(0, Math.min(data.ids.length - 1, otherPrompt + by));
    setTyped(null);
    store.select({ otherPrompt: p, otherToken: firstOrdinary(data, p) });
  };
  return (
    <div class="ix-other" role="group" aria-label="Prompt B">
      <button
        type="button"
        class="ix-small"
        aria-label="Prompt B: the one before"
        onClick={() => {
          step(-1);
        }}
      >
        ‹
      </button>
      <label class="ix-choose">
        <span>B</span>
        <input
          type="text"
          list={store.id("prompts")}
          value={typed ?? name(otherPrompt)}
          data-other
          onFocus={(e) => {
            e.currentTarget.select();
          }}
          onInput={(e) => {
            take(e.currentTarget.value);
          }}
          onBlur={() => {
            setTyped(null);
          }}
        />
      </label>
      <button
        type="button"
        class="ix-small"
        aria-label="Prompt B: the next one"
        onClick={() => {
          step(1);
        }}
      >
        ›
      </button>
      <datalist id={store.id("prompts")}>
        {near.map((p) => (
          <option key={p} value={name(p)} />
        ))}
      </datalist>
    </div>
  );
}

function savedOf(
  data: Data,
  c: Compared,
  selection: Selection,
  sides: [Side, Side],
  sentences: string[],
): Saved {
  const figure = () => {
    const look = coloursOf("light");
    const [both, difference] = chartsOf(data, c, selection, look, 860);
    const content = (
      <g>
        <text y={12} font-size={12} fill={look.tokens[0]}>
          A: {sides[0].name}
        </text>
        <text y={28} font-size={12} fill={look.tokens[1]}>
          B: {sides[1].name}
        </text>
        <g transform="translate(0 38)">
          <LineChart {...both} />
        </g>
        <g transform={`translate(0 ${both.height + 46})`}>
          <LineChart {...difference} />
        </g>
        {sentences.map((line, i) => (
          <text key={i} y={both.height + difference.height + 66 + 16 * i} font-size={11.5} fill={look.ink}>
            {short(line, 140)}
          </text>
        ))}
      </g>
    );
    return { content, width: 860, height: both.height + difference.height + 60 + 16 * sentences.length };
  };
  const sheet = () => {
    const rows: Cell[][] = [];
    const put = (of: string, e: { a: Estimate[]; b: Estimate[]; difference: Estimate[] }) => {
      for (const side of ["a", "b", "difference"] as const) {
        const name =
          side === "a" ? sides[0].name : side === "b" ? sides[1].name : `${sides[0].name} − ${sides[1].name}`;
        e[side].forEach((x, d) =>
          rows.push([
            c.measure.name,
            of,
            side,
            name,
            c.measure.depth[d] ?? "",
            x.mean,
            x.low,
            x.high,
            x.prompts,
          ]),
        );
      }
    };
    put("model", c);
    if (c.control) put(data.controlName, c.control);
    return {
      columns: ["measure", "of", "side", "name", "depth", "mean", "low_95", "high_95", "prompts"],
      rows,
    };
  };
  return {
    name: [data.title, "compare", selection.mode, c.measure.name],
    title: `${c.measure.title}: A and B${c.control ? `; grey: ${data.controlName}` : ""}`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

/** What the run's own tests say; they compare groups, so elsewhere they wait to be opened. */
function Tests({
  data,
  measure,
  lines,
  open,
}: {
  data: Data;
  measure: Measure;
  lines: string[];
  open: boolean;
}) {
  if (!lines.length) return null;
  const of = data.tests.find((t) => t.measure === measure.name && t.a && t.b);
  const name = `Tests of the run on ${measure.title}${of ? `: ${of.a ?? ""} against ${of.b ?? ""}` : ""}`;
  const list = (
    <ul>
      {lines.map((line, i) => (
        <li key={i}>{line}</li>
      ))}
    </ul>
  );
  return (
    <div class="ix-tests">
      {open ? (
        <>
          <Subtitle>{name}</Subtitle>
          {list}
        </>
      ) : (
        <details class="ix-numbers">
          <summary>{name}</summary>
          {list}
        </details>
      )}
    </div>
  );
}

function Chooser({ data, selection }: { data: Data; selection: Selection }) {
  const store = useStore();
  if (selection.mode !== "groups") {
    return (
      <>
        <OtherPrompt />
        {selection.mode === "tokens" &&
          (() => {
            const { first, length } = span(data, selection.otherPrompt);
            return (
              <Choose
                label="token of B"
                value={String(selection.otherToken)}
                options={Array.from({ length: Math.min(length, 500) }, (_, i) => ({
                  value: String(i),
                  text: `${i} ${short(text(data, first + i), 24)}`,
                }))}
                onChoose={(v) => {
                  store.select({ otherToken: Number(v) });
                }}
              />
            );
          })()}
      </>
    );
  }
  const [a, b] = groupsOf(data, selection);
  const value = (g: Group | null) => (g ? `${g.label}\u001f${g.value}` : "");
  const options = groupOptions(data).slice(1);
  if (!options.length) return <span class="ix-legend-note">These prompts have no labels to compare.</span>;
  return (
    <>
      <Choose
        label="A"
        value={value(a)}
        options={options}
        onChoose={(v) => {
          store.select({ group: parseGroup(v) });
        }}
      />
      <Choose
        label="B"
        value={value(b)}
        options={options}
        onChoose={(v) => {
          store.select({ otherGroup: parseGroup(v) });
        }}
      />
    </>
  );
}

export function CompareView() {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const selection = store.selection.value;
  const measure = measureOf(data, selection.measure);
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const row = useTextScale();
  const { mode, prompt, otherPrompt, otherToken, tokens, group, otherGroup, control, state } = selection;
  const sides = useMemo(
    () => sidesOf(data, selection),
    [data, mode, prompt, otherPrompt, otherToken, tokens, group, otherGroup],
  );
  const c = useMemo(
    () => (measure ? compared(data, measure, sides, control) : null),
    [data, measure, sides, control],
  );
  const [a, b] = [span(data, prompt), span(data, otherPrompt)];
  const pairs = useMemo(
    () =>
      mode === "prompts"
        ? align(
            data.index.subarray(a.first, a.first + a.length),
            data.index.subarray(b.first, b.first + b.length),
          )
        : [],
    [data, mode, a.first, b.first],
  );
  if (!measure || !c)
    return (
      <Panel view="compare" title="Compare">
        <p class="ix-note">This file holds no measure of tokens.</p>
      </Panel>
    );
  const [both, difference] = chartsOf(data, c, selection, colours, width);
  const [ga, gb] = groupsOf(data, selection);
  const tests = testsOf(data, measure, ga?.value ?? "", gb?.value ?? "");
  const sentences = said(data, c, state);
  const how = {
    prompts: "The mean of each prompt's ordinary tokens.",
    tokens: "The last chosen token is A.",
    groups: "Means of prompts with 95 % intervals (the prompt is the unit).",
  }[mode];
  return (
    <Panel
      view="compare"
      title={`Compare: ${measure.title}`}
      saved={savedOf(data, c, selection, sides, [...sentences, ...tests.slice(0, 3)])}
      hint={`${how} Special tokens are left out.`}
      controls={
        <>
          <Segments<Mode>
            label="Compare"
            value={mode}
            options={[
              { value: "prompts", text: "Prompts" },
              { value: "tokens", text: "Tokens" },
              { value: "groups", text: "Groups" },
            ]}
            onChoose={(value) => {
              store.select({ mode: value });
            }}
          />
          <Chooser data={data} selection={selection} />
        </>
      }
    >
      {control && !measure.control && <NoControl what={`values of ${measure.title}`} />}
      <p class="ix-sides">
        {sides.map(({ name, tokens: of }, i) => (
          <span key={i}>
            <b style={{ color: colours.tokens[i] }}>{i ? "B" : "A"}</b>
            <bdi>{name}</bdi>
            <small>
              {of.length} {of.length === 1 ? "token" : "tokens"}
            </small>
          </span>
        ))}
      </p>
      {sentences.map((line, i) => (
        <p key={i} class={i ? "ix-sentence" : "ix-sentence ix-first"}>
          {line}
        </p>
      ))}
      {mode === "prompts" && row && (
        <Pairs
          data={data}
          pairs={pairs}
          firsts={[a.first, b.first]}
          measure={measure}
          depth={row.depth}
          paint={row.colours}
          colours={colours}
          chosen={tokens}
        />
      )}
      {pairs.length > MOST_PAIRS && (
        <p class="ix-note">
          The first {MOST_PAIRS} of {pairs.length} pairs are shown.
        </p>
      )}
      <div ref={box}>
        {measure.axis !== "none" && (
          <>
            <ChartWithReadings
              chart={both}
              c={c}
              which="both"
              label={`${measure.title} of A and B; the numbers stand in the table below`}
            />
            <ChartWithReadings
              chart={difference}
              c={c}
              which="difference"
              label="Difference of A and B; the numbers stand in the table below"
            />
          </>
        )}
      </div>
      <NumbersTable c={c} />
      <Tests data={data} measure={measure} lines={tests} open={mode === "groups"} />
    </Panel>
  );
}
