import assert from "node:assert/strict";
import { test } from "node:test";
import { align } from "../src/align.ts";
import { coloursOf, inkOn, luminance, scale } from "../src/colours.ts";
import { lines } from "../src/export.tsx";
import { KEYS } from "../src/keys.ts";
import { pooled } from "../src/pixels.ts";
import { project, turned } from "../src/space.ts";
import { apart } from "../src/ways.ts";
import { written } from "../src/parts/Arcs.tsx";
import { namedOn } from "../src/parts/AttentionMap.tsx";
import { random } from "../fixtures/make.ts";

const next = random(5);

/** The length of the longest common subsequence by trying all ways. */
function longest(a: number[], b: number[]): number {
  if (!a.length || !b.length) return 0;
  if (a[0] === b[0]) return 1 + longest(a.slice(1), b.slice(1));
  return Math.max(longest(a.slice(1), b), longest(a, b.slice(1)));
}

test("alignments hold every token once, in order, with the most equal pairs", () => {
  for (let round = 0; round < 200; round++) {
    const [a, b] = [0, 1].map(() =>
      Array.from({ length: Math.floor(next() * 8) }, () => Math.floor(next() * 3)),
    ) as [number[], number[]];
    const pairs = align(a, b);
    assert.deepEqual(
      pairs.flatMap((p) => (p.a === null ? [] : [p.a])),
      a.map((_, i) => i),
    );
    assert.deepEqual(
      pairs.flatMap((p) => (p.b === null ? [] : [p.b])),
      b.map((_, i) => i),
    );
    for (const p of pairs) if (p.same) assert.equal(a[p.a ?? -1], b[p.b ?? -2]);
    assert.equal(pairs.filter((p) => p.same).length, longest(a, b));
  }
});

test("a projection keeps lengths", () => {
  const turn = { yaw: 0.7, pitch: -0.4 };
  const [x, y, z] = project([1, 2, 3], turn);
  assert.ok(Math.abs(Math.hypot(x, y, z) - Math.sqrt(14)) < 1e-12);
  assert.deepEqual(project([1, 2, 3], { yaw: 0, pitch: 0 }), [1, 2, 3]);
  assert.equal(turned(turn, 0, 99).pitch, Math.PI / 2);
});

test("text on every tone of every scale has the contrast that readers need", () => {
  for (const theme of ["light", "dark"] as const)
    for (const [low, high] of [
      [0, 1],
      [-1, 1],
    ] as const) {
      const look = coloursOf(theme);
      const paint = scale(low, high, look);
      for (let i = 0; i <= 50; i++) {
        const fill = paint.colour(low + ((high - low) * i) / 50);
        const [a, b] = [luminance(fill), luminance(inkOn(fill, look))].sort((p, q) => q - p) as [
          number,
          number,
        ];
        assert.ok((a + 0.05) / (b + 0.05) >= 4.5, `${theme} ${fill}`);
      }
    }
});

test("lines and words stand out from the paper", () => {
  for (const theme of ["light", "dark"] as const) {
    const look = coloursOf(theme);
    const against = (colour: string) => {
      const [a, b] = [luminance(colour), luminance(look.paper)].sort((p, q) => q - p) as [number, number];
      return (a + 0.05) / (b + 0.05);
    };
    for (const colour of [look.ink, look.muted, look.accent])
      assert.ok(against(colour) >= 4.5, `${theme} ${colour}`);
    for (const colour of [...look.tokens, look.control])
      assert.ok(against(colour) >= 2.9, `${theme} ${colour} ${against(colour)}`);
  }
});

test("the tones of a scale grow darker or lighter in one direction, for print in grey", () => {
  for (const theme of ["light", "dark"] as const) {
    const tones = Array.from({ length: 20 }, (_, i) =>
      luminance(scale(0, 1, coloursOf(theme)).colour(i / 19)),
    );
    const sign = theme === "light" ? -1 : 1;
    tones.slice(1).forEach((tone, i) => {
      assert.ok(sign * (tone - (tones[i] ?? 0)) > 0);
    });
  }
});

test("values of both signs have a scale around zero", () => {
  const paint = scale(-1, 4, coloursOf("light"));
  assert.deepEqual([paint.low, paint.high, paint.diverging], [-4, 4, true]);
  assert.equal(scale(2, 4, coloursOf("light")).diverging, false);
});

test("a large map shows the largest of each block of cells", () => {
  const values = Float32Array.of(1, 2, 0, 0, 0, 9, 0, NaN, 3, 0, 0, 0, 0, 0, 0, 5);
  assert.deepEqual([...pooled(values, 0, 4, 2).values], [9, 0, 3, 5]);
});

test("a long prompt writes only the tokens that have an arc", () => {
  assert.deepEqual(written(4, 1, []), [0, 1, 2, 3]);
  assert.deepEqual(
    written(4096, 50, [
      { position: 3, weight: 1 },
      { position: 4000, weight: 1 },
    ]),
    [3, 50, 4000],
  );
});

test("names of near points are moved apart, others stay", () => {
  assert.deepEqual(apart([{ x: 0, y: 10 }, { x: 5, y: 12 }, null, { x: 300, y: 11 }, { x: 20, y: 90 }]), [
    10,
    25,
    NaN,
    11,
    90,
  ]);
});

test("sentences are cut between words", () => {
  assert.deepEqual(lines("one two three", 7), ["one two", "three"]);
});

test("no key does two things", () => {
  const all = KEYS.flatMap((k) => k.keys);
  assert.equal(new Set(all).size, all.length);
});

test("chosen tokens are always named on a map, and nothing is written over them", () => {
  assert.deepEqual(namedOn(4, 1, [2]), [0, 1, 2, 3]);
  assert.deepEqual(namedOn(10, 3, [4]), [0, 4, 9]);
  assert.deepEqual(namedOn(10, 3, []), [0, 3, 6, 9]);
});

test("of a line that must be short only the tokens with an arc are written", () => {
  assert.deepEqual(written(40, 5, [{ position: 1, weight: 1 }], 0), [1, 5]);
});
