import assert from "node:assert/strict";
import { test } from "node:test";
import { type Data, hasControl, type Measure, members, promptOf, read } from "../src/data.ts";
import {
  bandOf,
  differences,
  estimate,
  estimates,
  extent,
  mean,
  sample,
  SORTED_TOKENS,
  t95,
  thin,
} from "../src/summary.ts";
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
  // Mean 5, standard deviation 3.6056, t(2) = 4.303.
  const found = estimate([2, 4, 9]);
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
    const values = Array.from({ length: 8 }, () => {
      const own = normal();
      return (own + normal() + own + normal()) / 2;
    });
    const { low, high } = estimate(values);
    if (low < 0 && high > 0) inside++;
  }
  near(inside / rounds, 0.95, 0.011);
});

test("one prompt has a mean and no interval", () => {
  const { mean: middle, low } = estimate([2]);
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

test("a control of which only means are known has its band, and none of a group", () => {
  const given = { mean: new Float32Array(6).fill(7), low: new Float32Array(6), high: new Float32Array(6) };
  const alone = { ...measure, control: null, controlBand: given };
  assert.equal(bandOf(data, alone, null, true), given);
  assert.equal(bandOf(data, alone, { label: "role", value: "target" }, true), null);
  const none = { ...data, lens: null, trajectory: null, attention: null };
  assert.equal(hasControl({ ...none, measures: [alone] }), true);
  assert.equal(hasControl({ ...none, measures: [{ ...alone, controlBand: null }] }), false);
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

test("estimates are of the prompts' means, without what is not defined", () => {
  const holey = data.measures[3] as Measure;
  assert.ok(holey.values.some(Number.isNaN), "the measure has no gaps to leave out");
  const width = holey.depth.length;
  for (const control of [false, true]) {
    const values = (control ? holey.control : holey.values) ?? new Float32Array(0);
    const found = estimates(data, holey, members(data, null), control);
    for (let d = 0; d < width; d++) {
      const means = data.ids.flatMap((_, p) => {
        const own = members(data, null)
          .filter((token) => promptOf(data, token) === p)
          .map((token) => values[token * width + d] ?? NaN)
          .filter((value) => !Number.isNaN(value));
        return own.length ? [own.reduce((a, v) => a + v, 0) / own.length] : [];
      });
      const middle = found[d]?.mean ?? 0;
      assert.equal(found[d]?.prompts, means.length);
      if (means.length) near(middle, mean(means), 1e-9);
      else assert.ok(Number.isNaN(middle));
    }
  }
});

test("a large group's sample is even, has no period, and stays when members follow", () => {
  const many = Array.from({ length: 40_000 }, (_, i) => i);
  for (const n of [1501, 2999, 3000, 3001, 12_345, 40_000]) {
    const few = sample(many.slice(0, n));
    assert.ok(few.length > SORTED_TOKENS / 2 - 9 && few.length < SORTED_TOKENS + 9, `${few.length} of ${n}`);
    for (const period of [2, 3, 4, 5, 8, 20, 64]) {
      const places = new Set(few.map((i) => i % period));
      assert.equal(places.size, period, `period ${period}`);
    }
  }
  const [fewer, more] = [sample(many.slice(0, 2000)), sample(many.slice(0, 2001))];
  assert.deepEqual(more.slice(0, fewer.length), fewer);
  assert.equal(sample(many.slice(0, SORTED_TOKENS)).length, SORTED_TOKENS);
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
