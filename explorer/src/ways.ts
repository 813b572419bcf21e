/** The ways of tokens: where they lie on paper, and how far they have come. */

import type { Colours } from "./colours.ts";
import { column, type Data, type Trajectory, type Ways } from "./data.ts";
import { type Point, project, type Turn } from "./space.ts";
import { extent } from "./summary.ts";

/** Other tokens of the prompt stand faintly behind; more than this hide each other. */
export const BEHIND = 80;
export const CHOSEN = 8;
export const pointOf = (ways: Ways, states: number, token: number, s: number): Point => {
  const at = (token * states + s) * 3;
  return [ways.coords[at] ?? NaN, ways.coords[at + 1] ?? NaN, ways.coords[at + 2] ?? NaN];
};

export interface Drawing {
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
export const placed = (p: Point, solid: boolean) => p.slice(0, solid ? 3 : 2).every(Number.isFinite);

type Axis = 0 | 1 | 2;
export const triple = (of: (axis: Axis) => number): Point => [of(0), of(1), of(2)];

type Spot = { x: number; y: number; near: number } | null;

export interface Frame {
  spot: (p: Point) => Spot;
  middle: Point;
  sizes: Point;
  /** Pixels for one unit of a coordinate. */
  unit: number;
}

/** How much larger than always safe a turned cloud may be drawn. */
const CLOSER = 1.9;

/** From coordinates to places on paper: one unit is as long on every axis. */
export function frameOf(d: Drawing, all: number[]): Frame {
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

export function wayOf(
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

export const columnRange = (trajectory: Trajectory, [from, to]: [number, number]): [number, number] => [
  column(trajectory, from),
  column(trajectory, to),
];

/** The column that the ways have come to, between two while they are played. */
export function comeTo(trajectory: Trajectory, state: number, part: number | null, from: number): number {
  const whole = trajectory.states.every((s, i) => s === i);
  return part !== null && whole ? part : Math.max(from, column(trajectory, state));
}
