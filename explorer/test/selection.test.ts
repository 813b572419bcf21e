import assert from "node:assert/strict";
import { test } from "node:test";
import { read, span } from "../src/data.ts";
import {
  clamp,
  firstOrdinary,
  fromAddress,
  initial,
  type Selection,
  toAddress,
  VIEWS,
} from "../src/selection.ts";
import { make, random } from "../fixtures/make.ts";

const data = read(make({ prompts: 9, tokens: 12, blocks: 6, heads: 4, measures: 8, hostile: true }));
const start = initial(data);

test("the first selection stands in the data", () => {
  assert.deepEqual(clamp(data, start), start);
});

test("an address brings any selection back", () => {
  const next = random(3);
  const below = (n: number) => Math.floor(next() * n);
  for (let i = 0; i < 300; i++) {
    const wanted: Selection = clamp(data, {
      view: VIEWS[below(5)] ?? "lens",
      prompt: below(9),
      tokens: [below(10), below(10)],
      state: below(7),
      range: [below(3), 3 + below(4)],
      measure: data.measures[below(8)]?.name ?? "",
      head: [below(6), below(4)],
      statistic: "induction",
      control: next() > 0.5,
      group: next() > 0.5 ? { label: "kind", value: "<img src=x onerror=alert(1)>" } : null,
      mode: "groups",
      otherPrompt: below(9),
      otherToken: below(9),
      otherGroup: { label: "role", value: "a&b=c#d\u001fe".split("\u001f")[0] ?? "" },
      sought: " her & <b>#?",
      solid: next() > 0.5,
      rollout: next() > 0.5,
    });
    assert.deepEqual(fromAddress(data, toAddress(data, wanted)), wanted);
  }
});

test("no prompt is compared with itself until the reader asks for it", () => {
  for (let p = 0; p < 9; p++) {
    const linked = fromAddress(data, `#explorer?view=compare&p=${data.ids[p] ?? 0}`);
    assert.equal(linked?.prompt, p);
    assert.notEqual(linked.otherPrompt, p);
    const itself = { ...linked, otherPrompt: p };
    assert.deepEqual(fromAddress(data, toAddress(data, itself)), itself);
  }
  const lone = read(make({ prompts: 1, tokens: 4 }));
  assert.equal(fromAddress(lone, "#explorer?view=compare&p=0")?.otherPrompt, 0);
});

test("the address names the prompt by its id", () => {
  const other = { ...data, ids: data.ids.map((id) => Number(id) * 10 + 5) };
  const address = toAddress(other, { ...start, prompt: 3 });
  assert.match(address, /^#explorer\?view=layers&p=35&/);
  assert.equal(fromAddress(other, address)?.prompt, 3);
});

test("addresses of other parts of the page are left alone", () => {
  for (const hash of ["", "#rotation", "#explorer", "#top"]) assert.equal(fromAddress(data, hash), null);
});

test("an address with nonsense gives the nearest selection", () => {
  const found = fromAddress(
    data,
    "#explorer?view=nowhere&p=999&t=-1,x,99999&s=1e9&r=9-2&m=none&h=99.99&ot=500&mode=?",
  );
  assert.ok(found);
  assert.deepEqual(clamp(data, found), found);
  assert.deepEqual([found.view, found.mode, found.head], ["layers", "prompts", [5, 3]]);
});

test("a range is kept in order and inside the depth", () => {
  assert.deepEqual(clamp(data, { ...start, range: [99, 2] }).range, [2, 6]);
});

test("a prompt opens at its labelled target", () => {
  const position = firstOrdinary(data, 2);
  assert.equal(data.texts[data.index[span(data, 2).first + position] ?? -1], " her");
});

test("one token of one prompt is enough", () => {
  const small = read(make({ prompts: 1, tokens: 1, blocks: 1, heads: 1, measures: 1, patterns: 1 }));
  const selection = initial(small);
  assert.deepEqual([selection.prompt, selection.tokens, selection.range], [0, [0], [0, 1]]);
  assert.deepEqual(fromAddress(small, toAddress(small, selection)), selection);
});
