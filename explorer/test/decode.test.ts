import assert from "node:assert/strict";
import { test } from "node:test";
import { floats, half, integers, unpack, unshuffle } from "../src/decode.ts";
import { pack, random, shuffled } from "../fixtures/make.ts";

const next = random(7);
const numbers = Float32Array.from({ length: 60 }, () => next() * 100 - 50);
numbers[3] = NaN;

for (const [zip, shuffle] of [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
] as const) {
  test(`floats come back bit by bit (zip ${zip}, shuffle ${shuffle})`, () => {
    const packed = pack(numbers, [5, 4, 3], zip, shuffle);
    assert.deepEqual(new Uint8Array(unpack(packed).buffer), new Uint8Array(numbers.buffer));
  });
}

test("whole numbers below zero come back", () => {
  assert.deepEqual(
    [...integers(pack(Int32Array.of(-1, 0, 2 ** 31 - 1, -(2 ** 31)), [4]))],
    [-1, 0, 2147483647, -2147483648],
  );
});

test("bytes are shares of 255 where floats are wanted", () => {
  assert.deepEqual([...floats(pack(Uint8Array.of(0, 51, 255), [3]))], [0, Math.fround(0.2), 1]);
});

test("half precision is read as IEEE 754 says", () => {
  // Sign, exponent and fraction by hand: 1, -2, 65504 (largest), 2^-24 (smallest), 1/3 to 10 bits.
  assert.deepEqual([0x3c00, 0xc000, 0x7bff, 0x0001, 0x3555].map(half), [
    1,
    -2,
    65504,
    2 ** -24,
    0.333251953125,
  ]);
  assert.equal(half(0x7c00), Infinity);
  assert.ok(Number.isNaN(half(0x7e00)));
  assert.ok(Object.is(half(0x8000), -0));
});

test("the transposition of bytes is undone", () => {
  const bytes = Uint8Array.from({ length: 24 }, (_, i) => i * 7);
  assert.deepEqual(unshuffle(shuffled(bytes, 4), 4), bytes);
});

test("an array of another size than it says is refused", () => {
  assert.throws(
    () => unpack({ ...pack(numbers, [60]), shape: [7, 9] }),
    /7 × 9 f4 needs 252 bytes and has 240/,
  );
});
