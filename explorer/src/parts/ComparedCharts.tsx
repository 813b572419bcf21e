/** Both sides over depth, and their difference. */

import { Numbers } from "./Numbers.tsx";
import type { Colours } from "../colours.ts";
import { bandFrom, type Compared, hasInterval, interval, means } from "../comparison.ts";
import { column, type Data, place } from "../data.ts";
import { exact, number } from "../format.ts";
import { useFrame } from "../hooks.ts";
import type { Selection } from "../selection.ts";
import { useStore } from "../store.ts";
import type { Estimate } from "../summary.ts";
import { frameOf, LineChart, type LineChartProps } from "./LineChart.tsx";

export function chartsOf(
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

export function ChartWithReadings({
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

export function NumbersTable({ c }: { c: Compared }) {
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
    <Numbers
      measure={c.measure}
      of="side"
      rows={() => [
        ...rows.map(([side, name, e]) => line(side, name, e, false)),
        ...others.map(([side, name, e]) => line(side, name, e, true)),
      ]}
    />
  );
}
