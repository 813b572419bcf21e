import assert from "node:assert/strict";
import { test } from "node:test";
import type { Lens } from "../src/data.ts";
import { arcsOf, patternOf, rolloutOf } from "../src/attention.ts";
import { find, readoutAt, sought } from "../src/readout.ts";
import { savedFrom } from "../src/views/Lens.tsx";

const lens: Lens = {
  labels: ["0", "1"],
  states: [0, 1],
  k: 3,
  texts: [" her", "her", " Her", "\n", "x"],
  prompts: new Set([0]),
  best: new Set(),
  control: null,
  tokens: Int32Array.of(0, 3, 4, 4, 1, -1),
  probs: Float32Array.of(0.5, 0.25, 0.125, 0.75, 0.125, NaN),
};

test("a cell is read from the most probable token on, without empty places", () => {
  assert.deepEqual(
    readoutAt(lens, 0, 0).map(({ text, prob }) => [text, prob]),
    [
      ["·her", 0.5],
      ["↵", 0.25],
      ["x", 0.125],
    ],
  );
  assert.equal(readoutAt(lens, 0, 1).length, 2);
  assert.deepEqual(readoutAt(lens, 0, 1, true), []);
});

test("what is typed finds the token with and without its space, in its own case", () => {
  assert.deepEqual([...sought(lens, "her")], [0, 1]);
  assert.deepEqual([...sought(lens, " her")], [0]);
  assert.deepEqual([...sought(lens, "·her")], [0]);
  assert.deepEqual([...sought(lens, "↵")], [3]);
  assert.deepEqual([...sought(lens, "")], []);
  assert.deepEqual([...sought(lens, "absent")], []);
});

test("rank and probability are of the best of the sought tokens; absent is not zero", () => {
  assert.deepEqual(find(lens, new Set([0, 1]), 0, 1), { rank: 2, prob: 0.125 });
  assert.equal(find(lens, new Set([2]), 0, 0), null);
});

const attention = {
  blocks: 2,
  heads: 2,
  statistics: [],
  notes: [],
  patterns: [
    {
      prompt: 7,
      blocks: [0, 1],
      heads: [1],
      length: 2,
      values: Float32Array.of(1, 0, 0.3, 0.7, 1, 0, 0.995, 0.005),
      control: null,
    },
  ],
  rollout: [
    {
      prompt: 7,
      states: 3,
      length: 2,
      control: null,
      values: Float32Array.of(1, 0, 0, 1, 1, 0, 0.2, 0.8, 1, 0, 0.4, 0.6),
    },
  ],
};

test("the map of a head is found by block and head, or said to be missing", () => {
  assert.equal(patternOf(attention, 7, [1, 1])?.offset, 4);
  assert.equal(patternOf(attention, 7, [0, 0]), null);
  assert.equal(patternOf(attention, 6, [1, 1]), null);
});

test("arcs go to what the token looks at and come from what looks at it", () => {
  const kept = patternOf(attention, 7, [0, 1]);
  assert.ok(kept);
  assert.deepEqual(
    arcsOf(kept, 1).to.map(({ position }) => position),
    [1, 0],
  );
  assert.deepEqual(
    arcsOf(kept, 0).from.map(({ position, weight }) => [position, weight]),
    [[1, Math.fround(0.3)]],
  );
  const other = patternOf(attention, 7, [1, 1]);
  assert.ok(other);
  assert.deepEqual(
    arcsOf(other, 1).to.map(({ position }) => position),
    [0],
  );
});

test("the rollout follows the state", () => {
  assert.deepEqual(
    [0, 1, 2].map((s) => rolloutOf(attention, 7, s)?.offset),
    [0, 4, 8],
  );
  const shorter = {
    ...attention,
    rollout: [{ prompt: 7, states: 2, length: 2, control: null, values: new Float32Array(8) }],
  };
  assert.deepEqual(
    [0, 1, 2].map((s) => rolloutOf(shorter, 7, s)?.offset),
    [0, 0, 4],
  );
});

test("the saved part of a long lens holds the selection and is never shorter than it may be", () => {
  for (const length of [1, 40, 41, 48, 300]) {
    for (let last = 0; last < length; last++) {
      const from = savedFrom(length, last);
      assert.ok(from >= 0 && from <= last && last < from + 40, `${length} ${last} ${from}`);
      assert.ok(from === 0 || from + 40 <= length);
    }
  }
  assert.equal(savedFrom(48, 39), 0);
});
