/** Packed arrays to typed arrays. */

import { inflateSync } from "fflate";
import type { Packed } from "./payload.ts";

export type Numbers = Float32Array | Int32Array | Uint8Array | Uint16Array;

const SIZES = { f4: 4, f2: 2, i4: 4, u1: 1, u2: 2 } as const;

function bytesOf(base64: string): Uint8Array {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Undoes the transposition that stores all first bytes first, then all second ones, and so on. */
export function unshuffle(bytes: Uint8Array, size: number): Uint8Array {
  const count = bytes.length / size;
  const out = new Uint8Array(bytes.length);
  for (let b = 0; b < size; b++)
    for (let i = 0; i < count; i++) out[i * size + b] = bytes[b * count + i] ?? 0;
  return out;
}

/** A half-precision number from its 16 bits. */
export function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function typed(dtype: Packed["dtype"], buffer: ArrayBuffer): Numbers {
  switch (dtype) {
    case "f4":
      return new Float32Array(buffer);
    case "i4":
      return new Int32Array(buffer);
    case "u1":
      return new Uint8Array(buffer);
    case "u2":
      return new Uint16Array(buffer);
    case "f2":
      return Float32Array.from(new Uint16Array(buffer), half);
  }
}

/** The numbers of a packed array, in the machine's own byte order (all browsers are little-endian). */
export function unpack(packed: Packed): Numbers {
  const size = SIZES[packed.dtype];
  const count = packed.shape.reduce((a, b) => a * b, 1);
  let bytes = bytesOf(packed.data);
  if (packed.zip) bytes = inflateSync(bytes, { out: new Uint8Array(count * size) });
  if (bytes.length !== count * size) {
    const shape = packed.shape.join(" × ");
    throw new Error(
      `An array of ${shape} ${packed.dtype} needs ${count * size} bytes and has ${bytes.length}.`,
    );
  }
  if (packed.shuffle) bytes = unshuffle(bytes, size);
  return typed(packed.dtype, bytes.slice().buffer);
}

/** As `unpack`, for numbers that are floats whatever they were stored as; whole numbers of one or two bytes are shares of the largest. */
export function floats(packed: Packed): Float32Array {
  const values = unpack(packed);
  if (values instanceof Float32Array) return values;
  const scale = values instanceof Uint8Array ? 255 : values instanceof Uint16Array ? 65535 : 1;
  return Float32Array.from(values, (v) => v / scale);
}

export function integers(packed: Packed): Int32Array {
  return Int32Array.from(unpack(packed));
}

export function flags(packed: Packed | null | undefined): Uint8Array | null {
  return packed ? Uint8Array.from(unpack(packed)) : null;
}
