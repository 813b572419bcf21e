/** Three dimensions on paper: an orthographic projection, turned by the reader. */

export interface Turn {
  /** Around the upright axis, then toward the reader; radians. */
  yaw: number;
  pitch: number;
}

export const START: Turn = { yaw: -0.6, pitch: 0.45 };
const STEEPEST = Math.PI / 2;

export type Point = readonly [number, number, number];

/** Right, up and toward the reader. Lengths are kept, so nothing looks nearer than it is. */
export function project([x, y, z]: Point, { yaw, pitch }: Turn): Point {
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const right = x * cy + z * sy;
  const away = -x * sy + z * cy;
  return [right, y * cp - away * sp, y * sp + away * cp];
}

export function turned(turn: Turn, right: number, down: number): Turn {
  const pitch = Math.max(-STEEPEST, Math.min(STEEPEST, turn.pitch + down));
  return { yaw: turn.yaw + right, pitch };
}
