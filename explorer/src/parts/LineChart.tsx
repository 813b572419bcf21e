/** Lines over depth with bands behind them: a pure figure, for the page and for files. */

import { type ScaleLinear, scaleLinear } from "d3-scale";
import { area, line } from "d3-shape";
import type { Colours } from "../colours.ts";
import type { Band } from "../data.ts";
import { number, short } from "../format.ts";
import { extent } from "../summary.ts";

export interface Line {
  name: string;
  values: ArrayLike<number>;
  colour: string;
  stroke: string;
  control?: boolean;
  width?: number;
}

export interface Shade {
  band: Band;
  colour: string;
  control?: boolean;
}

export interface LineChartProps {
  width: number;
  height: number;
  colours: Colours;
  labels: string[];
  axis: string;
  unit: string;
  lines: Line[];
  shades: Shade[];
  /** First and last column that are drawn. */
  window: [number, number];
  /** The chosen part of the depth, shaded, and the chosen column. */
  range?: [number, number] | null;
  column?: number | null;
  small?: boolean;
  zero?: boolean;
  /** Room for names at the ends of lines, where charts above each other should agree. */
  room?: number;
}

export interface Frame {
  x: ScaleLinear<number, number>;
  y: ScaleLinear<number, number>;
  left: number;
  right: number;
  top: number;
  bottom: number;
}

const slice = (values: ArrayLike<number>, [from, to]: [number, number]): number[] =>
  Array.from(values).slice(from, to + 1);

/** Where the axes of a chart lie; the part that listens to the pointer needs it too. */
export function frameOf({
  width,
  height,
  small = false,
  lines,
  shades,
  window,
  zero = false,
  room,
}: LineChartProps): Frame {
  const shown = [
    ...lines.flatMap((l) => slice(l.values, window)),
    ...shades.flatMap(({ band }) => [
      ...slice(band.low, window),
      ...slice(band.high, window),
      ...slice(band.mean, window),
    ]),
    ...(zero ? [0] : []),
  ];
  let [low, high] = extent(shown);
  if (low === high) [low, high] = [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
  const left = small ? 36 : 58;
  const right = small
    ? 8
    : (room ?? Math.min(120, 18 + 7 * lines.reduce((n, l) => Math.max(n, short(l.name, 14).length), 0)));
  const [top, bottom] = small ? [8, 16] : [12, 40];
  const [from, to] = window;
  const x = scaleLinear()
    .domain(to > from ? [from, to] : [from - 0.5, from + 0.5])
    .range([left, width - right]);
  const y = scaleLinear()
    .domain([low, high])
    .nice(small ? 8 : 6)
    .range([height - bottom, top]);
  return { x, y, left, right, top, bottom };
}

function path(values: ArrayLike<number>, [from, to]: [number, number], { x, y }: Frame): string {
  const places = Array.from({ length: to - from + 1 }, (_, i) => from + i);
  const draw = line<number>()
    .x((i) => x(i))
    .y((i) => y(values[i] ?? NaN))
    .defined((i) => Number.isFinite(values[i] ?? NaN));
  return draw(places) ?? "";
}

/** Values between two undefined ones make no line; they are drawn as points. */
function alone(values: ArrayLike<number>, [from, to]: [number, number]): number[] {
  const known = (i: number) => i >= from && i <= to && Number.isFinite(values[i] ?? NaN);
  return Array.from({ length: to - from + 1 }, (_, i) => from + i).filter(
    (i) => known(i) && !known(i - 1) && !known(i + 1),
  );
}

function shape({ low, high }: Band, [from, to]: [number, number], { x, y }: Frame): string {
  const places = Array.from({ length: to - from + 1 }, (_, i) => from + i);
  const draw = area<number>()
    .x((i) => x(i))
    .y0((i) => y(low[i] ?? NaN))
    .y1((i) => y(high[i] ?? NaN))
    .defined((i) => Number.isFinite(low[i] ?? NaN) && Number.isFinite(high[i] ?? NaN));
  return draw(places) ?? "";
}

function Axes({ props, frame }: { props: LineChartProps; frame: Frame }) {
  const {
    width,
    height,
    colours,
    labels,
    axis,
    unit,
    small = false,
    window: [from, to],
  } = props;
  const { x, y, left, right, top, bottom } = frame;
  const most = Math.max(2, Math.floor((width - left - right) / (small ? 44 : 46)));
  const step = Math.max(1, Math.ceil((to - from + 1) / most));
  const columns = Array.from({ length: to - from + 1 }, (_, i) => from + i).filter(
    (i) => (i - from) % step === 0,
  );
  return (
    <g font-size={small ? 9.5 : 11.5} fill={colours.muted}>
      {y.ticks(small ? 3 : 6).map((tick) => (
        <g key={tick}>
          <line x1={left} x2={width - right} y1={y(tick)} y2={y(tick)} stroke={colours.grid} />
          <text x={left - 6} y={y(tick)} dy="0.32em" text-anchor="end">
            {number(tick, small ? 2 : 3)}
          </text>
        </g>
      ))}
      <line
        x1={left}
        x2={width - right}
        y1={height - bottom}
        y2={height - bottom}
        stroke={colours.muted}
        stroke-width={0.75}
      />
      {columns.map((i) => (
        <text key={i} x={x(i)} y={height - bottom + (small ? 11 : 16)} text-anchor="middle">
          {short(labels[i] ?? "", 8)}
        </text>
      ))}
      {!small && (
        <text x={(left + width - right) / 2} y={height - 6} text-anchor="middle" font-size={12}>
          {axis}
        </text>
      )}
      {!small && unit && (
        <text
          transform={`translate(13 ${(top + height - bottom) / 2}) rotate(-90)`}
          text-anchor="middle"
          font-size={12}
        >
          {short(unit, Math.floor(height / 7))}
        </text>
      )}
    </g>
  );
}

/** Names at the ends of lines, moved apart where they would lie on each other. */
function Names({ props, frame }: { props: LineChartProps; frame: Frame }) {
  const { width, height, lines, window } = props;
  const ends = lines
    .filter((l) => !l.control && l.name)
    .flatMap((l) => {
      const known = slice(l.values, window).findLast((v) => Number.isFinite(v));
      return known === undefined ? [] : [{ l, at: frame.y(known) }];
    });
  ends.sort((a, b) => a.at - b.at);
  let floor = frame.top - 14;
  for (const end of ends) floor = end.at = Math.max(end.at, floor + 14);
  let ceiling = height - frame.bottom + 8;
  for (const end of [...ends].reverse()) ceiling = (end.at = Math.min(end.at, ceiling)) - 14;
  return (
    <g font-size={12}>
      {ends.map(({ l, at }, i) => (
        <text key={i} x={width - frame.right + 8} y={at} dy="0.32em" fill={l.colour} font-weight={600}>
          {short(l.name, 14)}
        </text>
      ))}
    </g>
  );
}

export function LineChart(props: LineChartProps) {
  const { width, height, colours, lines, shades, window, range, column, small = false, zero = false } = props;
  const frame = frameOf(props);
  const { x, y, left, right, top, bottom } = frame;
  const inside = (i: number) => Math.max(left, Math.min(width - right, x(i)));
  const half = (inside(window[0] + 1) - inside(window[0])) / 2;
  const tall = height - bottom - top;
  return (
    <g>
      <Axes props={props} frame={frame} />
      {range && (
        <rect
          x={inside(range[0] - 0.5)}
          width={Math.max(2, inside(range[1] + 0.5) - inside(range[0] - 0.5))}
          y={top}
          height={tall}
          fill={colours.accent}
          opacity={0.09}
        />
      )}
      {shades.map(({ band, colour, control }, i) => (
        <g key={i}>
          <path d={shape(band, window, frame)} fill={colour} opacity={control ? 0.22 : 0.3} />
          <path
            d={path(band.mean, window, frame)}
            fill="none"
            stroke={colour}
            stroke-width={1.5}
            stroke-dasharray={control ? "4 3" : undefined}
          />
        </g>
      ))}
      {zero && (
        <line
          x1={left}
          x2={width - right}
          y1={y(0)}
          y2={y(0)}
          stroke={colours.muted}
          stroke-dasharray="2 3"
        />
      )}
      {column !== null && column !== undefined && column >= window[0] && column <= window[1] && (
        <line
          x1={x(column)}
          x2={x(column)}
          y1={top}
          y2={height - bottom}
          stroke={colours.accent}
          stroke-width={small ? 1 : 1.5}
        />
      )}
      {lines.map((l, i) => (
        <g key={i}>
          <path
            d={path(l.values, window, frame)}
            fill="none"
            stroke={l.colour}
            stroke-width={l.width ?? (small ? 1.5 : 2.25)}
            stroke-dasharray={l.stroke || undefined}
            stroke-linejoin="round"
            opacity={l.control ? 0.8 : 1}
          />
          {alone(l.values, window).map((d) => (
            <circle key={d} cx={x(d)} cy={y(l.values[d] ?? 0)} r={small ? 2 : 3} fill={l.colour} />
          ))}
        </g>
      ))}
      {!small && half >= 0 && <Names props={props} frame={frame} />}
    </g>
  );
}
