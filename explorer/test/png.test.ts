import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32, inflateSync } from "node:zlib";
import { base64, png } from "../src/png.ts";
import { random } from "../fixtures/make.ts";

/** Reads a PNG by its specification, with Node's own check sums and inflation. */
function chunksOf(file: Uint8Array): Map<string, Buffer> {
  const bytes = Buffer.from(file);
  assert.equal(bytes.subarray(1, 4).toString("latin1"), "PNG");
  const found = new Map<string, Buffer>();
  for (let at = 8; at < bytes.length;) {
    const size = bytes.readUInt32BE(at);
    const named = bytes.subarray(at + 4, at + 8 + size);
    assert.equal(bytes.readUInt32BE(at + 8 + size), crc32(named));
    found.set(named.subarray(0, 4).toString("latin1"), named.subarray(4));
    at += size + 12;
  }
  return found;
}

test("a picture holds its indices, its colours and one transparent tone", () => {
  const next = random(11);
  const side = 61;
  const index = Uint8Array.from({ length: side * side }, () => Math.floor(next() * 256));
  const palette = Array.from({ length: 256 }, (_, i) => [i, 255 - i, (7 * i) % 256]);
  const chunks = chunksOf(png(index, side, palette));
  assert.deepEqual([...chunks.keys()], ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"]);
  assert.deepEqual([...(chunks.get("IHDR") ?? [])], [0, 0, 0, side, 0, 0, 0, side, 8, 3, 0, 0, 0]);
  assert.deepEqual([...(chunks.get("PLTE") ?? [])], palette.flat());
  assert.deepEqual([...(chunks.get("tRNS") ?? [])], [0]);
  const rows = inflateSync(chunks.get("IDAT") ?? Buffer.alloc(0));
  for (let y = 0; y < side; y++) {
    assert.equal(rows[y * (side + 1)], 0);
    const row = rows.subarray(y * (side + 1) + 1, (y + 1) * (side + 1));
    assert.deepEqual([...row], [...index.subarray(y * side, (y + 1) * side)]);
  }
});

test("bytes of any number become the text that Node makes of them", () => {
  for (const size of [0, 1, 2, 3, 8191, 8192, 20_000]) {
    const bytes = Uint8Array.from({ length: size }, (_, i) => (i * 31) % 256);
    assert.equal(base64(bytes), Buffer.from(bytes).toString("base64"));
  }
});
