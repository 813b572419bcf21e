/** Charts over depth on the page: the large one that listens, the small ones, their numbers. */

import { Numbers } from "./Numbers.tsx";
import { useState } from "preact/hooks";
import { tokenNames } from "../charts.ts";
import { brief, type Data, type Measure, place, valueOf } from "../data.ts";
import { exact, number, short } from "../format.ts";
import { useFrame } from "../hooks.ts";
import { useStore } from "../store.ts";
import { frameOf, LineChart, type LineChartProps } from "./LineChart.tsx";

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
export function Main({ chart, measure }: { chart: LineChartProps; measure: Measure }) {
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

export function Small({
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
export function Extremes({ chart, measure }: { chart: LineChartProps; measure: Measure }) {
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
export function NumbersTable({
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
  const names = tokenNames(data, tokens, first);
  const sides = control && measure.control ? [false, true] : [false];
  const rows = () =>
    tokens.flatMap((token, t) =>
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
    );
  return <Numbers measure={measure} of="token" rows={rows} />;
}
