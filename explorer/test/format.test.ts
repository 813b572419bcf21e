import assert from "node:assert/strict";
import { test } from "node:test";
import { csv, number, percent, short, slug, visible } from "../src/format.ts";
import { HOSTILE } from "../fixtures/make.ts";

test("white space and control characters are made visible", () => {
  assert.deepEqual([" her", "\n", "a\tb", "  ", "", "\u202egnirts", "\u0000"].map(visible), [
    "·her",
    "↵",
    "a⇥b",
    "··",
    "∅",
    "\\x202egnirts",
    "\\x00",
  ]);
});

test("an emoji of several parts stays one", () => {
  assert.equal(visible("👩‍👩‍👧‍👦"), "👩‍👩‍👧‍👦");
  assert.equal(short("👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦", 2), "👩‍👩‍👧‍👦…");
});

test("numbers have four digits and a true minus", () => {
  assert.deepEqual(
    [0, 1.23456, -12.3456, 12345.6, 1e-7, NaN, null, Infinity].map((v) => number(v)),
    ["0", "1.235", "−12.35", "12346", "1.00e−7", "–", "–", "∞"],
  );
});

test("a share is never rounded to nothing or to all", () => {
  assert.deepEqual([0, 0.0004, 0.034, 0.5, 0.9996, 1].map(percent), [
    "0 %",
    "<0.1 %",
    "3.4 %",
    "50 %",
    ">99.9 %",
    "100 %",
  ]);
});

test("file names hold letters, digits and hyphens only", () => {
  for (const text of HOSTILE) assert.match(`${slug("run", text)}.svg`, /^[a-z0-9-]+\.svg$/);
  assert.equal(slug("../../etc/passwd"), "etc-passwd");
  assert.equal(slug("…"), "explorer");
});

/** A reader of RFC 4180, written for this test. */
function parse(text: string): string[][] {
  const rows: string[][] = [[]];
  let [cell, quoted] = ["", false];
  for (let i = 0; i < text.length; i++) {
    const c = text[i] ?? "";
    if (quoted) {
      if (c === '"' && text[i + 1] === '"') cell += text[++i] ?? "";
      else if (c === '"') quoted = false;
      else cell += c;
    } else if (c === '"') quoted = true;
    else if (c === "," || c === "\r") {
      rows[rows.length - 1]?.push(cell);
      cell = "";
      if (c === "\r") {
        i++;
        rows.push([]);
      }
    } else cell += c;
  }
  return rows.slice(0, -1);
}

test("hostile texts come back from a CSV file, one cell each", () => {
  const text = csv(
    ["token", "value"],
    HOSTILE.map((t, i) => [JSON.stringify(t), i / 3]),
  );
  const rows = parse(text).slice(1);
  assert.deepEqual(
    rows.map(([t]) => JSON.parse(t ?? "") as string),
    HOSTILE,
  );
  assert.deepEqual(
    rows.map(([, v]) => Number(v)),
    HOSTILE.map((_, i) => i / 3),
  );
});

test("no cell of a CSV file begins like a formula, and notes stay in their lines", () => {
  const rows = parse(csv(["a"], [["=1+1"], ["@x"], ["+1"], ["-1"], ["plain"]], ["one\nline"]));
  assert.deepEqual(rows[0], ["# one line"]);
  for (const [cell] of rows.slice(2)) assert.doesNotMatch(cell ?? "", /^[=+\-@]/);
});

test("undefined numbers are empty cells", () => {
  assert.equal(csv(["v", "w"], [[NaN, null]]), "v,w\r\n,\r\n");
});
