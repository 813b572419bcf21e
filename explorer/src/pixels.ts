/** Squares of values as pictures: a pixel for each cell. */

import type { Scale } from "./colours.ts";
import { base64, png } from "./png.ts";

/** Larger squares are made smaller: each pixel then shows the largest of its cells. */
export const MOST_PIXELS = 1024;

/** The largest value of each block of `step` by `step` cells. */
export function pooled(
  values: ArrayLike<number>,
  offset: number,
  length: number,
  step: number,
): { values: Float32Array; side: number } {
  const side = Math.ceil(length / step);
  const out = new Float32Array(side * side).fill(NaN);
  for (let i = 0; i < length * length; i++) {
    const at = Math.floor(Math.floor(i / length) / step) * side + Math.floor((i % length) / step);
    const value = values[offset + i] ?? NaN;
    if (!Number.isNaN(value) && !(value <= (out[at] ?? NaN))) out[at] = value;
  }
  return { values: out, side };
}

const rgb = (colour: string): number[] =>
  colour.startsWith("#")
    ? [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))
    : (colour.match(/\d+/g) ?? []).slice(0, 3).map(Number);

/** A data address of the picture: 255 tones of the scale, and nothing where there is no weight. */
export function picture(values: ArrayLike<number>, offset: number, length: number, scale: Scale): string {
  const step = Math.ceil(length / MOST_PIXELS);
  const { values: shown, side } = pooled(values, offset, length, step);
  const tones = Array.from({ length: 255 }, (_, i) =>
    rgb(scale.colour(scale.low + ((scale.high - scale.low) * i) / 254)),
  );
  const index = Uint8Array.from(shown, (value) => {
    if (!(value > 0)) return 0;
    const share = (value - scale.low) / (scale.high - scale.low || 1);
    return 1 + Math.max(0, Math.min(254, Math.round(share * 254)));
  });
  return `data:image/png;base64,${base64(png(index, side, [[0, 0, 0], ...tones]))}`;
}
