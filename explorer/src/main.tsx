/** Puts the explorer on the page, and takes prompts that come later. */

import { effect } from "@preact/signals";
import { render } from "preact";
import { App } from "./App.tsx";
import { luminance, type Theme } from "./colours.ts";
import { read } from "./data.ts";
import { listen } from "./keys.ts";
import type { Payload } from "./payload.ts";
import { bandOf } from "./summary.ts";
import { createStore, followAddress, rememberedTheme, type Store } from "./store.ts";

let latest: Store | null = null;
const undo = new WeakMap<Element, () => void>();

/** Whether what the explorer stands on is dark; a page without a background is white. */
function onDark(el: Element | null): boolean {
  for (let at = el; at; at = at.parentElement) {
    const { backgroundColor } = getComputedStyle(at);
    if (backgroundColor && !/^(transparent|rgba\(.*, 0\))$/.test(backgroundColor))
      return luminance(backgroundColor) < 0.2;
  }
  return false;
}

/** A page of its own follows the system; inside another page, the explorer looks like that page. */
function preferred(el: Element, query: MediaQueryList): Theme {
  const set = document.documentElement.dataset["theme"];
  if (set === "dark" || set === "light") return set;
  const alone = document.body.classList.contains("ix-page");
  const chosen = alone ? rememberedTheme() : null;
  if (chosen) return chosen;
  const dark = alone ? query.matches : onDark(el);
  return dark ? "dark" : "light";
}

/** Follows the system until the reader chooses; paper is always light. */
function followTheme(store: Store, query: MediaQueryList): () => void {
  let screen: Theme | null = null;
  const change = () => {
    store.theme.value = preferred(store.root, query);
  };
  const before = () => {
    screen = store.theme.peek();
    store.theme.value = "light";
  };
  const after = () => {
    if (screen) store.theme.value = screen;
  };
  query.addEventListener("change", change);
  addEventListener("beforeprint", before);
  addEventListener("afterprint", after);
  return () => {
    query.removeEventListener("change", change);
    removeEventListener("beforeprint", before);
    removeEventListener("afterprint", after);
  };
}

/** Computes the bands that will be asked for while the reader looks at the first picture. */
function prepare(store: Store): void {
  const idle = (act: () => void) => {
    if ("requestIdleCallback" in window) requestIdleCallback(act);
    else setTimeout(act, 50);
  };
  const data = store.data.peek();
  const waiting = data.measures.flatMap((m) => [
    () => bandOf(data, m, null),
    () => bandOf(data, m, null, true),
  ]);
  const next = () => {
    const act = waiting.shift();
    if (!act || store.data.peek() !== data) return;
    act();
    idle(next);
  };
  idle(next);
}

function fail(el: HTMLElement, error: unknown): void {
  const note = document.createElement("p");
  note.className = "ix-broken";
  note.setAttribute("role", "alert");
  note.textContent = `The explorer could not read its data. ${error instanceof Error ? error.message : String(error)}`;
  el.replaceChildren(note);
}

/** Draws the explorer in an element; what stood there is replaced. */
export function mount(el: HTMLElement, payload: Payload): void {
  undo.get(el)?.();
  try {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const data = read(payload);
    el.replaceChildren();
    const store = createStore(el, data, preferred(el, query), el.id === "interp-explorer");
    latest = store;
    const stops = [
      listen(store),
      followAddress(store),
      followTheme(store, query),
      effect(() => {
        el.dataset["theme"] = store.theme.value;
      }),
    ];
    render(<App store={store} />, el);
    undo.set(el, () => {
      for (const stop of stops) stop();
      render(null, el);
    });
    prepare(store);
    if (location.hash.startsWith("#explorer?")) el.scrollIntoView();
  } catch (error) {
    fail(el, error);
  }
}

/** Adds prompts, or tokens to a prompt (`continues`), to the explorer that was drawn last. */
export function add(payload: Payload): void {
  if (!latest) throw new Error("There is no explorer on this page to add to.");
  latest.add(payload);
}

function start(): void {
  const el = document.getElementById("interp-explorer");
  const script = document.getElementById("interp-explorer-data");
  if (!el || !script) return;
  try {
    mount(el, JSON.parse(script.textContent) as Payload);
  } catch (error) {
    fail(el, error);
  }
}

declare global {
  interface Window {
    interpExplorer: { mount: typeof mount; add: typeof add };
  }
}

window.interpExplorer = { mount, add };
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
