import assert from "node:assert/strict";
import { test } from "node:test";
import { type Data, type Measure, members, promptOf, read } from "../src/data.ts";
import { bandOf, differences, estimate, extent, mean, t95, thin } from "../src/summary.ts";
import { largest } from "../src/comparison.ts";
import { make, random } from "../fixtures/make.ts";

const data: Data = read(make({ prompts: 40, tokens: 12, blocks: 6, measures: 8 }));
const measure = data.measures[0] as Measure;
const near = (a: number, b: number, by = 1e-5) => {
  assert.ok(Math.abs(a - b) <= by, `${a} is not ${b}`);
};

test("percentiles of Student's t agree with published tables", () => {
  for (const [freedom, value] of [
    [1, 12.706],
    [5, 2.571],
    [10, 2.228],
    [30, 2.042],
    [40, 2.0211],
    [60, 2.0003],
    [120, 1.9799],
    [1000, 1.9623],
  ] as const)
    near(t95(freedom), value, 5e-4);
});

test("the interval of a mean is Student's, over prompts", () => {
  // Means of prompts: 2, 4, 9. Mean 5, standard deviation 3.6056, t(2) = 4.303.
  const found = estimate([
    { prompt: 0, value: 1 },
    { prompt: 0, value: 3 },
    { prompt: 1, value: 4 },
    { prompt: 2, value: 9 },
    { prompt: 3, value: NaN },
  ]);
  near(found.mean, 5);
  near(found.high, 5 + (4.303 * 3.605551) / Math.sqrt(3), 1e-4);
  assert.equal(found.prompts, 3);
});

test("intervals hold the truth 95 times in 100", () => {
  const next = random(11);
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  let inside = 0;
  const rounds = 4000;
  for (let round = 0; round < rounds; round++) {
    const values = Array.from({ length: 8 }, (_, prompt) => {
      const own = normal();
      return [
        { prompt, value: own + normal() },
        { prompt, value: own + normal() },
      ];
    }).flat();
    const { low, high } = estimate(values);
    if (low < 0 && high > 0) inside++;
  }
  near(inside / rounds, 0.95, 0.011);
});

test("one prompt has a mean and no interval", () => {
  const { mean: middle, low } = estimate([{ prompt: 4, value: 2 }]);
  assert.equal(middle, 2);
  assert.ok(Number.isNaN(low));
});

test("a band is the mean and the middle 80 % of a group", () => {
  const group = { label: "role", value: "target" };
  const band = bandOf(data, measure, group);
  const values = members(data, group)
    .map((token) => measure.values[token * 6 + 2] ?? NaN)
    .sort((a, b) => a - b);
  const at = (q: number) => {
    const h = q * (values.length - 1);
    const low = values[Math.floor(h)] ?? NaN;
    return low + (h - Math.floor(h)) * ((values[Math.ceil(h)] ?? NaN) - low);
  };
  near(band?.mean[2] ?? NaN, mean(values));
  near(band?.low[2] ?? NaN, at(0.1));
  near(band?.high[2] ?? NaN, at(0.9));
});

test("the band of the whole run is used where the file has it, and only for all tokens", () => {
  const given = { mean: new Float32Array(6).fill(7), low: new Float32Array(6), high: new Float32Array(6) };
  const with_ = { ...measure, band: given };
  assert.equal(bandOf(data, with_, null), given);
  assert.notEqual(bandOf(data, with_, { label: "role", value: "target" }), given);
});

test("groups in the same prompts are compared within prompts", () => {
  const [a, b] = ["target", "previous"].map((value) => members(data, { label: "role", value }));
  const found = differences(data, measure, a ?? [], b ?? [])[3];
  const by = (tokens: number[]) => {
    const sums = new Map<number, number[]>();
    for (const t of tokens)
      sums.set(promptOf(data, t), [...(sums.get(promptOf(data, t)) ?? []), measure.values[t * 6 + 3] ?? NaN]);
    return new Map([...sums].map(([p, v]) => [p, mean(v)]));
  };
  const [left, right] = [by(a ?? []), by(b ?? [])];
  near(found?.mean ?? NaN, mean([...left].map(([p, v]) => v - (right.get(p) ?? NaN))));
  assert.ok(found?.paired && found.low < found.mean && found.high > found.mean);
});

test("groups in different prompts have Welch's interval", () => {
  const [a, b] = ["object", "possessive"].map((value) => members(data, { label: "kind", value }));
  const found = differences(data, measure, a ?? [], b ?? [])[0];
  assert.equal(found?.paired, false);
  assert.equal(found.prompts, 40);
  assert.ok(found.low < found.mean && found.mean < found.high);
});

test("extents leave out what is not a number", () => {
  assert.deepEqual(extent([NaN, 3, -1, Infinity]), [-1, 3]);
  assert.deepEqual(extent([NaN]), [0, 1]);
});

test("thinning keeps the order and the ends apart", () => {
  const tokens = Array.from({ length: 1000 }, (_, i) => i);
  assert.deepEqual(thin(tokens, 4), [0, 250, 500, 750]);
  assert.equal(thin(tokens, 2000), tokens);
});

test("the largest difference is found by size, whatever its sign, and not among unknown ones", () => {
  const of = (mean: number) => ({ mean, low: NaN, high: NaN, prompts: 1 });
  assert.equal(largest([of(NaN), of(1), of(-3), of(2)]), 2);
  assert.equal(largest([of(NaN)]), -1);
});
