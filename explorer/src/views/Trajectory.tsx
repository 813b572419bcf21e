/** The ways of tokens through the stream, in the axes that all of them share. */

import { scaleLinear } from "d3-scale";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Colours, coloursOf, STROKES } from "../colours.ts";
import { column, type Data, rawText, span, stateName, type Trajectory, type Ways } from "../data.ts";
import type { Saved } from "../export.tsx";
import { type Cell, exact, number, percent, short } from "../format.ts";
import { calm, useFrame, useWidth } from "../hooks.ts";
import { Missing, NoControl, Panel, Segments } from "../parts/Controls.tsx";
import { type Point, project, START, type Turn, turned } from "../space.ts";
import { useStore } from "../store.ts";
import { extent, thin } from "../summary.ts";
import { tokenNames } from "./Layers.tsx";

/** Other tokens of the prompt stand faintly behind; more than this hide each other. */
const BEHIND = 80;
const CHOSEN = 8;
const STEP_MS = 420;

const pointOf = (ways: Ways, states: number, token: number, s: number): Point => {
  const at = (token * states + s) * 3;
  return [ways.coords[at] ?? NaN, ways.coords[at + 1] ?? NaN, ways.coords[at + 2] ?? NaN];
};

interface Drawing {
  data: Data;
  trajectory: Trajectory;
  ways: Ways;
  tokens: number[];
  first: number;
  length: number;
  /** First and last state that are drawn, and how far the ways have come (between two while played). */
  range: [number, number];
  at: number;
  solid: boolean;
  turn: Turn;
  colours: Colours;
  width: number;
  height: number;
  title?: string;
}

/** Flat figures need two coordinates, solid ones three. */
const placed = (p: Point, solid: boolean) => p.slice(0, solid ? 3 : 2).every(Number.isFinite);

type Axis = 0 | 1 | 2;
const triple = (of: (axis: Axis) => number): Point => [of(0), of(1), of(2)];

type Spot = { x: number; y: number; near: number } | null;

interface Frame {
  spot: (p: Point) => Spot;
  middle: Point;
  sizes: Point;
  /** Pixels for one unit of a coordinate. */
  unit: number;
}

/** How much larger than always safe a turned cloud may be drawn. */
const CLOSER = 1.9;

/** From coordinates to places on paper: one unit is as long on every axis. */
function frameOf(d: Drawing, all: number[]): Frame {
  const states = d.trajectory.states.length;
  const [from, to] = d.range;
  const known = all
    .flatMap((token) =>
      Array.from({ length: to - from + 1 }, (_, i) => pointOf(d.ways, states, token, from + i)),
    )
    .filter((p) => placed(p, d.solid));
  const ends = (axis: Axis): [number, number] =>
    axis < 2 || d.solid ? extent(known.map((p) => p[axis])) : [0, 0];
  const middle = triple((axis) => (ends(axis)[0] + ends(axis)[1]) / 2);
  const sizes = triple((axis) => ends(axis)[1] - ends(axis)[0]);
  const centred = (p: Point) => triple((axis) => (Number.isFinite(p[axis]) ? p[axis] - middle[axis] : 0));
  const [w, h] = d.solid ? [d.width - 150, d.height - 60] : [d.width - 110, d.height - 90];
  const seen = known.map((p) => (d.solid ? project(centred(p), d.turn) : centred(p)));
  const reach = (axis: 0 | 1) => 2 * seen.reduce((far, p) => Math.max(far, Math.abs(p[axis])), 0);
  const fits = Math.min(w / (reach(0) || 1), h / (reach(1) || 1));
  const unit = d.solid ? Math.min(fits, (CLOSER * Math.min(w, h)) / (Math.hypot(...sizes) || 1)) : fits;
  const spot = (p: Point): Spot => {
    if (!placed(p, d.solid)) return null;
    const [x, y, near] = d.solid ? project(centred(p), d.turn) : centred(p);
    return {
      x: (d.solid ? d.width : d.width + 30) / 2 + x * unit,
      y: (d.solid ? d.height : d.height - 24) / 2 - y * unit,
      near,
    };
  };
  return { spot, middle, sizes, unit };
}

const mix = (a: Point, b: Point, t: number): Point => [
  a[0] + (b[0] - a[0]) * t,
  a[1] + (b[1] - a[1]) * t,
  a[2] + (b[2] - a[2]) * t,
];

function wayOf(
  d: Drawing,
  token: number,
  spot: (p: Point) => Spot,
  until = d.at,
): { path: string; spots: { s: number; spot: NonNullable<Spot> }[]; head: Spot } {
  const states = d.trajectory.states.length;
  const end = Math.min(until, d.range[1]);
  const spots: { s: number; spot: NonNullable<Spot> }[] = [];
  for (let s = d.range[0]; s <= end; s++) {
    const place = spot(pointOf(d.ways, states, token, s));
    if (place) spots.push({ s, spot: place });
  }
  const low = Math.floor(end);
  const here = pointOf(d.ways, states, token, low);
  const head = spot(low === end ? here : mix(here, pointOf(d.ways, states, token, low + 1), end - low));
  const all = [...spots.map(({ spot: place }) => place), ...(head && low !== end ? [head] : [])];
  return {
    path: all.map(({ x, y }, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(""),
    spots,
    head,
  };
}

/** The edges of the box around all points: without it the turning could not be seen. */
function Box({ d, frame }: { d: Drawing; frame: Frame }) {
  const corner = (bits: number) =>
    triple((axis) => frame.middle[axis] + frame.sizes[axis] * ((bits >> axis) & 1 ? 0.5 : -0.5));
  const edges = [0, 1, 2].flatMap((axis) =>
    Array.from({ length: 8 }, (_, bits) => bits)
      .filter((bits) => !((bits >> axis) & 1))
      .map((bits) => [bits, bits | (1 << axis)] as const),
  );
  const path = edges.map(([a, b]) => {
    const [from, to] = [frame.spot(corner(a)), frame.spot(corner(b))];
    return from && to
      ? `M${from.x.toFixed(1)} ${from.y.toFixed(1)}L${to.x.toFixed(1)} ${to.y.toFixed(1)}`
      : "";
  });
  return <path d={path.join("")} fill="none" stroke={d.colours.grid} />;
}

function Axes({ d, frame }: { d: Drawing; frame: Frame }) {
  const { colours, ways, trajectory } = d;
  const share = (i: number) => {
    const known = ways.explained[i] ?? NaN;
    return `${trajectory.axes[i] ?? ""}${Number.isNaN(known) ? "" : `, ${percent(known)}`}`;
  };
  const what = (i: number) =>
    `${share(i)}${Number.isNaN(ways.explained[i] ?? NaN) ? "" : " of the variance"}`;
  if (d.solid) {
    // Three short arrows from a corner: where the axes point after turning.
    const arms: Point[] = [
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ];
    return (
      <>
        <Box d={d} frame={frame} />
        <g transform={`translate(92 ${d.height - 56})`} font-size={11} fill={colours.muted}>
          {arms.map((arm, i) => {
            const [x, y] = project(arm, d.turn);
            return (
              <g key={i}>
                <line x2={x * 34} y2={-y * 34} stroke={colours.muted} stroke-width={1.5} />
                <text
                  x={x * 42}
                  y={-y * 42}
                  dy="0.32em"
                  text-anchor={x < -0.2 ? "end" : x > 0.2 ? "start" : "middle"}
                >
                  {share(i)}
                </text>
              </g>
            );
          })}
        </g>
      </>
    );
  }
  const [left, right, bottom] = [56, d.width - 8, d.height - 34];
  const ends = (axis: 0 | 1, pixels: number) => frame.middle[axis] + pixels / frame.unit;
  const x = scaleLinear()
    .domain([ends(0, left - (d.width + 30) / 2), ends(0, right - (d.width + 30) / 2)])
    .range([left, right]);
  const y = scaleLinear()
    .domain([ends(1, (d.height - 24) / 2 - bottom), ends(1, (d.height - 24) / 2 - 20)])
    .range([bottom, 20]);
  return (
    <g font-size={11} fill={colours.muted}>
      {x.ticks(Math.max(3, d.width / 110)).map((tick) => (
        <g key={`x${tick}`}>
          <line x1={x(tick)} x2={x(tick)} y1={20} y2={bottom} stroke={colours.grid} />
          <text x={x(tick)} y={bottom + 14} text-anchor="middle">
            {number(tick, 3)}
          </text>
        </g>
      ))}
      {y.ticks(6).map((tick) => (
        <g key={`y${tick}`}>
          <line x1={left} x2={right} y1={y(tick)} y2={y(tick)} stroke={colours.grid} />
          <text x={left - 5} y={y(tick)} dy="0.32em" text-anchor="end">
            {number(tick, 3)}
          </text>
        </g>
      ))}
      <text x={d.width / 2} y={d.height - 4} text-anchor="middle" font-size={12}>
        {what(0)}
      </text>
      <text transform={`translate(11 ${d.height / 2}) rotate(-90)`} text-anchor="middle" font-size={12}>
        {what(1)}
      </text>
    </g>
  );
}

/** Heights of names beside points, moved where two would lie on each other. */
export function apart(heads: ({ x: number; y: number } | null)[], line = 15, reach = 90): number[] {
  const out = heads.map((head) => head?.y ?? NaN);
  const order = heads.flatMap((head, i) => (head ? [{ i, ...head }] : [])).sort((a, b) => a.y - b.y);
  order.forEach(({ i, x }, at) => {
    for (const above of order.slice(0, at)) {
      if (Math.abs(above.x - x) < reach) out[i] = Math.max(out[i] ?? 0, (out[above.i] ?? 0) + line);
    }
  });
  return out;
}

function Picture(d: Drawing) {
  const every = Array.from({ length: d.length }, (_, i) => d.first + i).filter(
    (token) => !d.data.special?.[token] || d.tokens.includes(token),
  );
  const behind = thin(
    every.filter((token) => !d.tokens.includes(token)),
    BEHIND,
  );
  const chosen = d.tokens.slice(0, CHOSEN);
  const all = [...behind, ...chosen];
  const frame = frameOf(d, all);
  const { spot } = frame;
  const names = tokenNames(d.data, chosen, d.first);
  const states = d.trajectory.states.length;
  const labels = apart(chosen.map((token) => wayOf(d, token, spot).head));
  return (
    <g>
      <Axes d={d} frame={frame} />
      {d.title && (
        <text
          x={d.width / 2}
          y={14}
          text-anchor="middle"
          font-size={13}
          font-weight={600}
          fill={d.colours.ink}
        >
          {d.title}
        </text>
      )}
      {behind.map((token) => (
        <path
          key={token}
          d={wayOf(d, token, spot).path}
          fill="none"
          stroke={d.colours.control}
          stroke-width={1}
          opacity={0.35}
        />
      ))}
      {chosen.map((token, i) => {
        const { path, spots, head } = wayOf(d, token, spot);
        const colour = d.colours.tokens[i] ?? d.colours.ink;
        return (
          <g key={token} fill={colour}>
            <path
              d={wayOf(d, token, spot, d.range[1]).path}
              fill="none"
              stroke={colour}
              stroke-width={1.25}
              opacity={0.4}
            />
            <path
              d={path}
              fill="none"
              stroke={colour}
              stroke-width={2.25}
              stroke-linejoin="round"
              stroke-dasharray={STROKES[i] || undefined}
            />
            {spots.map(({ s, spot: { x, y } }) => {
              const [px, py, pz] = pointOf(d.ways, states, token, s);
              return (
                <circle
                  key={s}
                  cx={x}
                  cy={y}
                  r={s === d.range[0] ? 4.5 : 2.75}
                  fill={s === d.range[0] ? d.colours.paper : colour}
                  stroke={colour}
                  stroke-width={1.5}
                  data-trajectory-token={token}
                  data-state={d.trajectory.states[s]}
                  data-x={exact(px)}
                  data-y={exact(py)}
                  data-z={exact(pz)}
                  data-control={d.ways === d.trajectory ? undefined : "true"}
                />
              );
            })}
            {head && <circle cx={head.x} cy={head.y} r={6} stroke={d.colours.paper} stroke-width={1.5} />}
            {head && (
              <text
                x={head.x + (head.x > d.width - 100 ? -10 : 10)}
                y={labels[i] ?? head.y}
                dy="0.32em"
                font-size={12.5}
                font-weight={600}
                text-anchor={head.x > d.width - 100 ? "end" : "start"}
                stroke={d.colours.paper}
                stroke-width={3}
                paint-order="stroke"
              >
                {short(names[i] ?? "", 14)}
              </text>
            )}
          </g>
        );
      })}
    </g>
  );
}

/** Plays the layers: a step at a time, gliding between two unless the reader asks for less motion. */
function usePlay(last: number, range: [number, number]) {
  const store = useStore();
  const [playing, setPlaying] = useState(false);
  const [part, setPart] = useState<number | null>(null);
  useEffect(() => {
    if (!playing) return;
    const state = store.selection.peek().state;
    const from = state >= range[1] || state < range[0] ? range[0] : state;
    const begun = performance.now();
    let frame = 0;
    const tick = () => {
      const now = Math.min(range[1], from + (performance.now() - begun) / STEP_MS);
      const whole = Math.floor(now);
      if (whole !== store.selection.peek().state) store.select({ state: whole }, true);
      setPart(calm() ? null : now);
      if (now < range[1]) frame = requestAnimationFrame(tick);
      else setPlaying(false);
    };
    tick();
    return () => {
      cancelAnimationFrame(frame);
      setPart(null);
    };
  }, [playing, store, last, range]);
  return {
    playing,
    part,
    toggle: () => {
      setPlaying(!playing);
    },
  };
}

function useTurn() {
  const [turn, setTurn] = useState<Turn>(START);
  const grip = useRef<{ x: number; y: number; turn: Turn } | null>(null);
  const move = useFrame<Turn>(setTurn);
  return {
    turn,
    reset: () => {
      setTurn(START);
    },
    handlers: {
      onPointerDown: (e: PointerEvent) => {
        (e.currentTarget as Element).setPointerCapture(e.pointerId);
        grip.current = { x: e.clientX, y: e.clientY, turn };
      },
      onPointerMove: (e: PointerEvent) => {
        const from = grip.current;
        if (from) move(turned(from.turn, (e.clientX - from.x) / 160, (e.clientY - from.y) / 160));
      },
      onPointerUp: () => {
        grip.current = null;
      },
      onPointerCancel: () => {
        grip.current = null;
      },
      onKeyDown: (e: KeyboardEvent) => {
        const by = {
          ArrowLeft: [-0.15, 0],
          ArrowRight: [0.15, 0],
          ArrowUp: [0, -0.15],
          ArrowDown: [0, 0.15],
        }[e.key];
        if (!by) return;
        e.preventDefault();
        e.stopPropagation();
        setTurn(turned(turn, by[0] ?? 0, by[1] ?? 0));
      },
    },
  };
}

const columnRange = (trajectory: Trajectory, [from, to]: [number, number]): [number, number] => [
  column(trajectory, from),
  column(trajectory, to),
];

function savedOf(
  base: Omit<Drawing, "colours" | "width" | "height" | "ways">,
  sides: { ways: Ways; title: string }[],
  prompt: number,
): Saved {
  const { data, trajectory, tokens, first, range } = base;
  const figure = () => ({
    width: 860,
    height: 480 * sides.length,
    content: (
      <g>
        {sides.map(({ ways, title }, i) => (
          <g key={i} transform={`translate(0 ${480 * i})`}>
            <Picture
              {...base}
              at={range[1]}
              ways={ways}
              title={title}
              colours={coloursOf("light")}
              width={860}
              height={470}
            />
          </g>
        ))}
      </g>
    ),
  });
  const states = trajectory.states.length;
  const every = Array.from({ length: base.length }, (_, i) => first + i);
  const sheet = () => ({
    columns: ["prompt", "position", "token", "chosen", "of", "state", "pc1", "pc2", "pc3"],
    rows: sides.flatMap(({ ways, title }) =>
      every.flatMap((token) =>
        trajectory.states.flatMap((state, s): Cell[][] =>
          s < range[0] || s > range[1]
            ? []
            : [
                [
                  data.ids[prompt] ?? 0,
                  token - first,
                  JSON.stringify(rawText(data, token)),
                  tokens.includes(token) ? 1 : 0,
                  title || "model",
                  state,
                  ...pointOf(ways, states, token, s),
                ],
              ],
        ),
      ),
    ),
  });
  const shares = trajectory.explained
    .slice(0, base.solid ? 3 : 2)
    .map((v, i) => `${trajectory.axes[i] ?? ""} ${percent(v)}`)
    .join(", ");
  return {
    name: [data.title, "trajectory", `prompt ${data.ids[prompt] ?? 0}`],
    title: `Trajectories, prompt ${data.ids[prompt] ?? 0} (${shares})`,
    provenance: data.provenance,
    figure,
    sheet,
  };
}

/** The model's ways, and the control's beside them where it is on. */
function sidesOf(data: Data, trajectory: Trajectory, control: boolean): { ways: Ways; title: string }[] {
  if (!control || !trajectory.control) return [{ ways: trajectory, title: "" }];
  return [
    { ways: trajectory, title: "model" },
    { ways: trajectory.control, title: data.controlName },
  ];
}

function hintOf(trajectory: Trajectory, solid: boolean, state: number, others: number): string {
  const total = trajectory.explained.slice(0, solid ? 3 : 2).reduce((a, b) => a + b, 0);
  return [
    `The ways of the chosen tokens from state to state (ring: first state; large dot: ${stateName(state)}); the prompt's other tokens in grey.`,
    "All prompts share these axes.",
    !Number.isNaN(total) && `The ${solid ? "three" : "two"} shown hold ${percent(total)} of the variance.`,
    others > BEHIND && `${BEHIND} of the ${others} other tokens are drawn.`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** The column that the ways have come to, between two while they are played. */
function comeTo(trajectory: Trajectory, state: number, part: number | null, from: number): number {
  const whole = trajectory.states.every((s, i) => s === i);
  return part !== null && whole ? part : Math.max(from, column(trajectory, state));
}

interface ButtonsProps {
  three: boolean;
  solid: boolean;
  playing: boolean;
  onPlay: () => void;
  onReset: () => void;
}

function Buttons({ three, solid, playing, onPlay, onReset }: ButtonsProps) {
  const store = useStore();
  const options = [
    { value: "2", text: "2-D" },
    { value: "3", text: "3-D" },
  ];
  return (
    <>
      {three && (
        <Segments
          label="Dimensions"
          value={solid ? "3" : "2"}
          options={options}
          onChoose={(value) => {
            store.select({ solid: value === "3" });
          }}
        />
      )}
      <button type="button" class="ix-small" onClick={onPlay} aria-pressed={playing}>
        {playing ? "Pause" : "Play layers"}
      </button>
      {solid && (
        <button type="button" class="ix-small" onClick={onReset}>
          Turn back
        </button>
      )}
      {solid && (
        <span class="ix-legend-note">Drag to turn; with the focus on the figure, arrow keys turn it.</span>
      )}
    </>
  );
}

function Inside({ trajectory }: { trajectory: Trajectory }) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { prompt, tokens: positions, state, range: states, control, solid: wanted } = store.selection.value;
  const three = trajectory.axes.length > 2;
  const solid = wanted && three;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const { first, length } = span(data, prompt);
  const tokens = useMemo(() => positions.map((p) => first + p), [positions, first]);
  const { playing, part, toggle } = usePlay(data.lastState, states);
  const { turn, reset, handlers } = useTurn();
  const range = columnRange(trajectory, states);
  const sides = sidesOf(data, trajectory, control);
  const base = {
    data,
    trajectory,
    tokens,
    first,
    length,
    range,
    at: comeTo(trajectory, state, part, range[0]),
    solid,
    turn,
  };
  const known = tokens.some((token) =>
    placed(pointOf(trajectory, trajectory.states.length, token, column(trajectory, state)), solid),
  );
  const across = sides.length > 1 && width > 700 ? Math.floor((width - 16) / 2) : width;
  const height = Math.round(Math.max(300, Math.min(460, across * 0.62)));
  return (
    <Panel
      view="trajectory"
      title="Trajectory"
      saved={savedOf(base, sides, prompt)}
      hint={hintOf(trajectory, solid, state, length - tokens.length)}
      controls={<Buttons three={three} solid={solid} playing={playing} onPlay={toggle} onReset={reset} />}
    >
      {control && sides.length < 2 && <NoControl what="trajectories" />}
      {!known && (
        <p class="ix-note" role="note">
          The ways of the chosen tokens were not kept. {data.more["trajectory"]}
        </p>
      )}
      <div ref={box} class="ix-row">
        {sides.map(({ ways, title }, i) => (
          <svg
            key={i}
            class={solid ? "ix-figure ix-turn" : "ix-figure"}
            width={across}
            height={height}
            viewBox={`0 0 ${across} ${height}`}
            role="img"
            aria-label={`Trajectories of the chosen tokens${title && `, ${title}`}; the CSV holds the coordinates`}
            {...(solid ? { tabIndex: 0, ...handlers } : {})}
          >
            <Picture {...base} ways={ways} title={title} colours={colours} width={across} height={height} />
          </svg>
        ))}
      </div>
    </Panel>
  );
}

export function TrajectoryView() {
  const { trajectory, missing } = useStore().data.value;
  if (trajectory) return <Inside trajectory={trajectory} />;
  return (
    <Panel view="trajectory" title="Trajectory">
      <Missing what="This file holds no trajectories." command={missing["trajectory"]} />
    </Panel>
  );
}
