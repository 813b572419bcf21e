/**
 * Square pictures as PNG. A canvas could make them too, but a browser that protects its reader from being
 * recognised (`privacy.resistFingerprinting` in Firefox) gives a page random pixels in place of its own.
 */

import { zlibSync } from "fflate";

/** The check sums of all bytes, for the polynomial of the PNG specification (annex D). */
const SUMS = Uint32Array.from({ length: 256 }, (_, n) => {
  let sum = n;
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? 0xedb88320 ^ (sum >>> 1) : sum >>> 1;
  return sum;
});

function checked(bytes: Uint8Array): number {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = (SUMS[(sum ^ byte) & 255] ?? 0) ^ (sum >>> 8);
  return ~sum >>> 0;
}

const fourBytes = (n: number): number[] => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255];

function chunk(name: string, data: ArrayLike<number>): Uint8Array {
  const inside = Uint8Array.from({ length: name.length }, (_, i) => name.charCodeAt(i));
  const body = new Uint8Array(inside.length + data.length);
  body.set(inside);
  body.set(data, inside.length);
  const out = new Uint8Array(body.length + 8);
  out.set(fourBytes(data.length));
  out.set(body, 4);
  out.set(fourBytes(checked(body)), 4 + body.length);
  return out;
}

/** A picture of indices into a palette of red, green and blue; index 0 is transparent. */
export function png(index: Uint8Array, side: number, palette: readonly number[][]): Uint8Array {
  const rows = new Uint8Array(side * (side + 1));
  // Every row begins with the number of its filter: none.
  for (let y = 0; y < side; y++) rows.set(index.subarray(y * side, (y + 1) * side), y * (side + 1) + 1);
  const [depth, indexed] = [8, 3];
  const parts = [
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk("IHDR", [...fourBytes(side), ...fourBytes(side), depth, indexed, 0, 0, 0]),
    chunk("PLTE", palette.flat()),
    chunk("tRNS", [0]),
    chunk("IDAT", zlibSync(rows, { level: 3 })),
    chunk("IEND", []),
  ];
  const file = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}

export function base64(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
