import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, objects, type Told } from "../src/live.ts";

const ASKED = {
  prompt: "a",
  new_tokens: 2,
  sample: false,
  temperature: 1,
  top_k: null,
  top_p: null,
  seed: 0,
};
const LIVE = { url: "/", token: "secret" };

function streamed(text: string, size: number): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  return new ReadableStream({
    start(controller) {
      for (let i = 0; i < bytes.length; i += size) controller.enqueue(bytes.subarray(i, i + size));
      controller.close();
    },
  });
}

async function all(told: AsyncGenerator<Told>): Promise<Told[]> {
  const out: Told[] = [];
  for await (const one of told) out.push(one);
  return out;
}

test("lines that arrive in pieces are whole again, within letters too", async () => {
  const told: Told[] = [
    { type: "queued", ahead: 1 },
    { type: "started" },
    { type: "text", text: "né 👩‍👩‍👧‍👦\n", tokens: 3 },
  ];
  const text = told.map((one) => JSON.stringify(one)).join("\n");
  for (const size of [1, 2, 3, 7, 1000]) assert.deepEqual(await all(objects(streamed(text, size))), told);
});

test("the request has the token in its header and the question in its body", async (t) => {
  const seen: { url: string; init: RequestInit }[] = [];
  t.mock.method(globalThis, "fetch", (url: string, init: RequestInit) => {
    seen.push({ url, init });
    return Promise.resolve(new Response('{"type":"started"}\n'));
  });
  assert.deepEqual(await all(ask(LIVE, ASKED, new AbortController().signal)), [{ type: "started" }]);
  assert.equal(seen[0]?.url, "/run");
  assert.equal((seen[0].init.headers as Record<string, string>)["X-Interp-Token"], "secret");
  assert.deepEqual(JSON.parse(seen[0].init.body as string), ASKED);
});

test("a refusal is told in the server's words, or by its number", async (t) => {
  let answer = new Response('{"message": "The queue is full."}', { status: 429 });
  t.mock.method(globalThis, "fetch", () => Promise.resolve(answer));
  const run = () => all(ask(LIVE, ASKED, new AbortController().signal));
  await assert.rejects(run, /The queue is full\./);
  answer = new Response("no", { status: 500, statusText: "Internal Server Error" });
  await assert.rejects(run, /answered 500 Internal Server Error/);
});

test("a server that is gone is told with what to do", async (t) => {
  t.mock.method(globalThis, "fetch", () => Promise.reject(new TypeError("Failed to fetch")));
  await assert.rejects(
    () => all(ask(LIVE, ASKED, new AbortController().signal)),
    /is interp explore still running\?/,
  );
});
