import assert from "node:assert/strict";
import { test } from "node:test";
import {
  column,
  groupings,
  labelsOf,
  members,
  place,
  promptOf,
  rawText,
  read,
  sentence,
  span,
  statesOf,
  valueOf,
} from "../src/data.ts";
import { make } from "../fixtures/make.ts";

const data = read(make({ prompts: 5, tokens: 12, blocks: 6, measures: 11 }));

test("block b is shown at state b + 1", () => {
  assert.deepEqual(statesOf(["0", "1", "2"], "block"), [1, 2, 3]);
  assert.deepEqual(statesOf(["0", "1", "2"], "state"), [0, 1, 2]);
  assert.deepEqual(statesOf(["decoder 3", "decoder 5"], "block"), [4, 6]);
  assert.deepEqual(statesOf(["embedding", "middle"], "state"), [0, 1]);
});

test("a state that was not recorded is shown by the nearest one", () => {
  const part = { states: [1, 4, 9] };
  assert.deepEqual(
    [0, 2, 3, 7, 30].map((s) => column(part, s)),
    [0, 0, 1, 2, 2],
  );
});

test("every token belongs to the prompt whose span holds it", () => {
  data.ids.forEach((_, p) => {
    const { first, length } = span(data, p);
    for (let i = first; i < first + length; i++) assert.equal(promptOf(data, i), p);
  });
});

test("a prompt without tokens takes none of its neighbours'", () => {
  const empty = { ...data, ids: [0, 1, 2], start: Int32Array.of(0, 3, 3, 5) };
  assert.deepEqual(
    [0, 2, 3, 4].map((token) => promptOf(empty, token)),
    [0, 0, 2, 2],
  );
});

test("values are read at token and depth", () => {
  const measure = data.measures[1];
  assert.ok(measure);
  assert.equal(valueOf(measure, 7, 2), measure.values[7 * measure.depth.length + 2]);
  assert.ok(Number.isNaN(valueOf(measure, 10_000, 0)));
});

test("a measure without depth has one column", () => {
  const measure = data.measures.find((m) => m.axis === "none");
  assert.ok(measure);
  assert.deepEqual([measure.depth, place(measure, 0)], [[""], ""]);
});

test("groups leave special tokens out", () => {
  const role = groupings(data).find(({ label }) => label === "role");
  assert.deepEqual(role?.values, ["target", "previous", "random"]);
  const all = members(data, null);
  assert.ok(all.every((token) => !data.special?.[token]));
  const target = members(data, { label: "role", value: "target" });
  assert.ok(target.length > 0 && target.every((token) => rawText(data, token) === " her"));
  const kind = members(data, { label: "kind", value: "object" });
  assert.deepEqual([...new Set(kind.map((token) => promptOf(data, token)))], [0, 2, 4]);
});

test("labels of a token are its prompt's and its own", () => {
  const token = members(data, { label: "role", value: "target" })[0] ?? -1;
  assert.deepEqual(labelsOf(data, token), [
    ["kind", "object"],
    ["role", "target"],
  ]);
});

test("the sentence of a prompt has no special token", () => {
  assert.ok(!sentence(data, 0).includes("endoftext"));
});

test("another schema is refused", () => {
  assert.throws(() => read({ ...make({ prompts: 1 }), schema: 2 }), /schema 1 and was given schema 2/);
});
