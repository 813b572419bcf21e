import assert from "node:assert/strict";
import { test } from "node:test";
import { add, keep } from "../src/add.ts";
import { type Data, type Group, rawText, read, span } from "../src/data.ts";
import { readoutAt } from "../src/readout.ts";
import { bandOf } from "../src/summary.ts";
import { make } from "../fixtures/make.ts";
import type { Id, Payload } from "../src/payload.ts";

const WANTED = { prompts: 4, tokens: 9, blocks: 3, heads: 2, measures: 6 };
const data = read(make(WANTED));
const other = (id: number, seed = 2): Payload => {
  const payload = make({ ...WANTED, prompts: 1, hostile: true, seed });
  const renamed = (parts: { prompt: Id }[]) => {
    for (const part of parts) part.prompt = id;
  };
  payload.prompts.id = [id];
  if (payload.lens) payload.lens.prompts = [id];
  renamed(payload.attention?.patterns ?? []);
  renamed(payload.attention?.rollout ?? []);
  return payload;
};

/** Everything that is known of a prompt, without the numbering of texts. */
function known(d: Data, place: number) {
  const { first, length } = span(d, place);
  const tokens = Array.from({ length }, (_, i) => first + i);
  const row = (array: Float32Array | null, width: number) =>
    array && [...array.subarray(first * width, (first + length) * width)];
  return {
    id: d.ids[place],
    texts: tokens.map((t) => rawText(d, t)),
    special: tokens.map((t) => d.special?.[t]),
    measures: d.measures.map((m) => [m.name, row(m.values, m.depth.length), row(m.control, m.depth.length)]),
    lens: d.lens && tokens.map((t) => d.lens && [0, 1, 2, 3].map((s) => d.lens && readoutAt(d.lens, t, s))),
    coords: d.trajectory && row(d.trajectory.coords, d.trajectory.states.length * 3),
    labels: d.tokenLabels.map((l) => tokens.map((t) => l.values[l.index[t] ?? -1])),
  };
}

test("an added prompt stands last, with its own texts and numbers", () => {
  const added = read(other(99));
  const both = add(data, added);
  assert.deepEqual(both.ids, [0, 1, 2, 3, 99]);
  assert.deepEqual(known(both, 4), known(added, 0));
  for (let p = 0; p < 4; p++) assert.deepEqual(known(both, p), known(data, p));
});

test("a prompt whose id is there is replaced", () => {
  const added = read(other(1));
  const both = add(data, added);
  assert.deepEqual(both.ids, [0, 2, 3, 1]);
  assert.deepEqual(known(both, 3), known(added, 0));
  assert.deepEqual(known(both, 1), known(data, 2));
  assert.equal(both.attention?.patterns.filter((p) => p.prompt === 1).length, 1);
});

test("tokens stream in at the end of a prompt", () => {
  const whole = read(other(50, 8));
  const { length } = span(whole, 0);
  const cut = (from: number, to: number): Data => {
    const start = Int32Array.of(0, from, to, length);
    const parts = keep(
      {
        ...whole,
        ids: [0, 50, 1],
        start,
        promptLabels: { kind: ["a", whole.promptLabels["kind"]?.[0] ?? null, "b"] },
      },
      [1],
    );
    return { ...parts, ids: [50] };
  };
  let grown = add(data, cut(0, 3));
  for (let i = 3; i < length; i++) grown = add(grown, cut(i, i + 1), true);
  assert.deepEqual(known(grown, 4), known(whole, 0));
  assert.deepEqual(grown.ids, [0, 1, 2, 3, 50]);
  assert.equal(grown.start[5], grown.index.length);
});

/** The bands of every measure as numbers; asked for, so that they are kept. */
const bandsOf = (d: Data, group: Group | null) =>
  d.measures.flatMap((m) =>
    [false, true].map((control) => {
      const band = bandOf(d, m, group, control);
      return band && [[...band.mean], [...band.low], [...band.high]];
    }),
  );

test("bands that grow with the tokens are those of the whole", () => {
  const large = { ...WANTED, tokens: 20, blocks: 2 };
  for (const prompts of [4, 80, 160]) {
    const whole = read(make({ ...large, prompts }));
    const old = Array.from({ length: prompts - 1 }, (_, p) => p);
    const { first, length } = span(whole, prompts - 1);
    const part = (from: number, to: number): Data =>
      keep(
        { ...whole, ids: [0, 9, 1], start: Int32Array.of(0, first + from, first + to, first + length) },
        [1],
      );
    let grown = add(keep(whole, old), { ...part(0, 3), ids: [prompts - 1] });
    for (let i = 3; i < length; i++) {
      for (const group of [null, { label: "role", value: "target" }]) bandsOf(grown, group);
      grown = add(grown, { ...part(i, i + 1), ids: [prompts - 1] }, true);
    }
    for (const group of [null, { label: "role", value: "target" }])
      assert.deepEqual(bandsOf(grown, group), bandsOf(read(make({ ...large, prompts })), group));
  }
});

test("bands of what replaces a prompt are computed anew", () => {
  bandsOf(data, null);
  const both = add(data, read(other(1)));
  assert.deepEqual(bandsOf(both, null), bandsOf(keep(both, [0, 1, 2, 3]), null));
});

test("tokens for a prompt in the middle move it to the end first", () => {
  const more = { ...read(other(1)), ids: [1] };
  const grown = add(data, more, true);
  assert.deepEqual(grown.ids, [0, 2, 3, 1]);
  assert.equal(span(grown, 3).length, span(data, 1).length + span(more, 0).length);
  assert.deepEqual(known(grown, 0), known(data, 0));
});

test("prompts of which only the best token is known stay known as such", () => {
  const payload = other(99);
  if (payload.lens) payload.lens.best = [99];
  const both = add(data, read(payload));
  assert.deepEqual([...(both.lens?.best ?? [])], [99]);
  assert.deepEqual([...(both.lens?.prompts ?? [])], [...(data.lens?.prompts ?? []), 99]);
});

test("tokens of a prompt that is not there are refused", () => {
  assert.throws(() => add(data, read(other(77)), true), /one prompt that is there/);
});

test("what is added without a measure is undefined there; another depth is refused", () => {
  const payload = other(99);
  const name = payload.measures[0]?.name ?? "";
  const both = add(data, read({ ...payload, measures: payload.measures.slice(1) }));
  const measure = both.measures.find((m) => m.name === name);
  const { first } = span(both, 4);
  assert.ok(Number.isNaN(measure?.values[first * 3]));
  const deeper = read({ ...make({ ...WANTED, blocks: 5, prompts: 1 }) });
  assert.throws(() => add(data, { ...deeper, ids: [9] }), /has 3 depths here and 5 in what is added/);
});
