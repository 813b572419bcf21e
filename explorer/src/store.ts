/** The one selection, its changes and its place in the address; views read it and ask for changes. */

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { type ComponentChild, createContext } from "preact";
import { useContext } from "preact/hooks";
import { type Colours, coloursOf, type Theme } from "./colours.ts";
import type { Data } from "./data.ts";
import { span } from "./data.ts";
import { clamp, firstOrdinary, fromAddress, initial, type Selection, toAddress } from "./selection.ts";

/** What stands beside the pointer or the focus. */
export interface Shown {
  x: number;
  y: number;
  content: ComponentChild;
}

export interface Store {
  root: HTMLElement;
  data: Signal<Data>;
  selection: Signal<Selection>;
  theme: Signal<Theme>;
  colours: ReadonlySignal<Colours>;
  tip: Signal<Shown | null>;
  help: Signal<boolean>;
  /** Read aloud by screen readers. */
  spoken: Signal<string>;
  select: (change: Partial<Selection>, quietly?: boolean) => void;
  openPrompt: (place: number) => void;
  choose: (position: number, add: boolean) => void;
  moveToken: (by: number, add: boolean) => void;
  moveState: (by: number) => void;
}

/** Changes that follow each other faster than this are one step of the browser's history. */
const STEP_MS = 700;

/** `about:srcdoc` and some notebooks forbid changes of the address; the page works without. */
function setAddress(address: string, replace: boolean): void {
  try {
    if (location.hash === address) return;
    if (replace) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
  } catch {
    // Nothing to do: a selection that cannot be linked to is still a selection.
  }
}

export function createStore(root: HTMLElement, start: Data, theme: Theme): Store {
  const data = signal(start);
  const selection = signal(fromAddress(start, location.hash) ?? initial(start));
  const themeSignal = signal(theme);
  let changed = 0;
  const select = (change: Partial<Selection>, quietly = false) => {
    const before = selection.peek();
    selection.value = clamp(data.peek(), { ...before, ...change });
    const now = performance.now();
    setAddress(toAddress(data.peek(), selection.peek()), quietly || now - changed < STEP_MS);
    changed = now;
  };
  const length = () => span(data.peek(), selection.peek().prompt).length;
  return {
    root, data, selection,
    theme: themeSignal,
    colours: computed(() => coloursOf(themeSignal.value)),
    tip: signal(null),
    help: signal(false),
    spoken: signal(""),
    select,
    openPrompt(place) {
      const prompt = Math.max(0, Math.min(data.peek().ids.length - 1, place));
      select({ prompt, tokens: [firstOrdinary(data.peek(), prompt)] });
    },
    choose(position, add) {
      const { tokens } = selection.peek();
      if (!add) select({ tokens: [position] });
      else if (!tokens.includes(position)) select({ tokens: [...tokens, position] });
      else if (tokens.length > 1) select({ tokens: tokens.filter((t) => t !== position) });
    },
    moveToken(by, add) {
      const { tokens } = selection.peek();
      const last = tokens[tokens.length - 1] ?? 0;
      const next = Math.max(0, Math.min(length() - 1, last + by));
      select({ tokens: add ? [...tokens.filter((t) => t !== next), next] : [next] });
    },
    moveState(by) {
      select({ state: selection.peek().state + by });
    },
  };
}

/** Follows the browser's back and forward, and links that are followed within the page. */
export function followAddress(store: Store): () => void {
  const follow = () => {
    const wanted = fromAddress(store.data.peek(), location.hash);
    if (wanted) store.selection.value = wanted;
  };
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);
  return () => {
    removeEventListener("popstate", follow);
    removeEventListener("hashchange", follow);
  };
}

export const StoreContext = createContext<Store | null>(null);

export function useStore(): Store {
  const store = useContext(StoreContext);
  if (!store) throw new Error("A view stands outside of the explorer.");
  return store;
}
