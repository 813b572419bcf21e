/** Squares of values as pictures: a pixel for each cell. */

import type { Scale } from "./colours.ts";

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

/** A data address of the picture. */
export function picture(values: ArrayLike<number>, offset: number, length: number, scale: Scale): string {
  const step = Math.ceil(length / MOST_PIXELS);
  const { values: shown, side } = pooled(values, offset, length, step);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  if (!context) return "";
  const image = context.createImageData(side, side);
  // 256 tones are made once; asking the scale for every pixel would take seconds.
  const tones = Array.from({ length: 256 }, (_, i) =>
    rgb(scale.colour(scale.low + ((scale.high - scale.low) * i) / 255)),
  );
  shown.forEach((value, i) => {
    if (!(value > 0)) return;
    const share = (value - scale.low) / (scale.high - scale.low || 1);
    const [r = 0, g = 0, b = 0] = tones[Math.max(0, Math.min(255, Math.round(share * 255)))] ?? [];
    image.data.set([r, g, b, 255], i * 4);
  });
  context.putImageData(image, 0, 0);
  return canvas.toDataURL("image/png");
}
