import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { addressWriter } from "../src/address.ts";

const REST = 150;

interface Seen {
  write: (address: string, replace: boolean) => void;
  pass: (ms: number) => void;
  goTo: (address: string) => void;
}

/** What is put into the address, as its text, with `+` before a new step of the history. */
function written(act: (seen: Seen) => void): string[] {
  const puts: string[] = [];
  let address = "";
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const place = {
      now: () => address,
      put: (to: string, replace: boolean) => {
        address = to;
        puts.push(replace ? to : `+${to}`);
      },
    };
    act({
      write: addressWriter(place, REST),
      pass: (ms) => {
        mock.timers.tick(ms);
      },
      goTo: (to) => {
        address = to;
      },
    });
  } finally {
    mock.timers.reset();
  }
  return puts;
}

test("a change is written at once, and one after it has rested too", () => {
  const puts = written(({ write, pass }) => {
    write("a", true);
    pass(REST);
    write("b", false);
  });
  assert.deepEqual(puts, ["a", "+b"]);
});

test("of changes that follow each other quickly the last is always written", () => {
  const puts = written(({ write, pass }) => {
    for (let i = 0; i < 600; i++) {
      write(String(i), true);
      pass(16);
    }
    pass(REST);
  });
  assert.equal(puts.at(-1), "599");
  // 9.6 s in which browsers take 200.
  assert.ok(puts.length < 75, `${puts.length} times`);
});

test("a new step of the history is not held back, and ends what waits", () => {
  const puts = written(({ write, pass }) => {
    write("a", true);
    write("b", true);
    write("c", false);
    pass(10 * REST);
  });
  assert.deepEqual(puts, ["a", "+c"]);
});

test("what waits is forgotten when the reader goes elsewhere", () => {
  const puts = written(({ write, pass, goTo }) => {
    write("a", true);
    write("b", true);
    goTo("elsewhere");
    pass(10 * REST);
    write("c", true);
  });
  assert.deepEqual(puts, ["a", "c"]);
});
