/** The one selection, its changes and its place in the address; views read it and ask for changes. */

import { batch, computed, type ReadonlySignal, signal, type Signal } from "@preact/signals";
import { type ComponentChild, createContext } from "preact";
import { useContext } from "preact/hooks";
import { type Colours, coloursOf, type Theme } from "./colours.ts";
import { add as addTo } from "./add.ts";
import { addressWriter } from "./address.ts";
import { type Data, read, span } from "./data.ts";
import type { Payload } from "./payload.ts";
import { clamp, firstOrdinary, fromAddress, initial, type Selection, toAddress } from "./selection.ts";

/** What stands beside the pointer or the focus. */
export interface Shown {
  x: number;
  y: number;
  content: ComponentChild;
}

export interface Store {
  root: HTMLElement;
  /** Whether the address of the page is this explorer's; a widget among others leaves it alone. */
  linked: boolean;
  /** Whether the page holds nothing else. */
  alone: boolean;
  /** An id that no other explorer of the page has. */
  id: (name: string) => string;
  data: Signal<Data>;
  selection: Signal<Selection>;
  theme: Signal<Theme>;
  /** Whether the reader may choose light or dark; inside a report it looks like the report. */
  themed: boolean;
  setTheme: (theme: Theme) => void;
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
  /** Takes prompts that come later, or tokens at the end of one (`continues`), and shows them. */
  add: (payload: Payload) => void;
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

const REMEMBERED = "interp-explorer-theme";

const themeFrom = (text: string | null): Theme | null => (text === "dark" || text === "light" ? text : null);

/** The theme that the reader chose on this page or before, if any. */
export function rememberedTheme(): Theme | null {
  const own = themeFrom(new URLSearchParams(location.hash.split("?")[1] ?? "").get("theme"));
  try {
    return own ?? themeFrom(localStorage.getItem(REMEMBERED));
  } catch {
    return own;
  }
}

/** Whether it could be kept; some browsers keep nothing for files. */
function rememberTheme(theme: Theme): boolean {
  try {
    localStorage.setItem(REMEMBERED, theme);
    return true;
  } catch {
    return false;
  }
}

let made = 0;

export function createStore(root: HTMLElement, start: Data, theme: Theme, linked = true): Store {
  const number = made++;
  const alone = linked && document.body.classList.contains("ix-page");
  const data = signal(start);
  const selection = signal((linked ? fromAddress(start, location.hash) : null) ?? initial(start));
  const themeSignal = signal(theme);
  let changed = 0;
  // Where the browser keeps nothing, the address holds the theme.
  let inAddress = themeFrom(new URLSearchParams(location.hash.split("?")[1] ?? "").get("theme"));
  const write = addressWriter({ now: () => location.hash, put: setAddress });
  const address = () => toAddress(data.peek(), selection.peek()) + (inAddress ? `&theme=${inAddress}` : "");
  const select = (change: Partial<Selection>, quietly = false) => {
    const before = selection.peek();
    selection.value = clamp(data.peek(), { ...before, ...change });
    const now = performance.now();
    if (linked) write(address(), quietly || now - changed < STEP_MS);
    changed = now;
  };
  const length = () => span(data.peek(), selection.peek().prompt).length;
  return {
    root,
    linked,
    data,
    selection,
    alone,
    themed: alone || !linked,
    id: (name) => `ix${number}-${name}`,
    theme: themeSignal,
    setTheme(chosen) {
      themeSignal.value = chosen;
      if (!alone) return;
      const kept = rememberTheme(chosen);
      if (kept && !inAddress) return;
      inAddress = kept ? null : chosen;
      write(address(), true);
    },
    colours: computed(() => coloursOf(themeSignal.value)),
    tip: signal(null),
    help: signal(false),
    spoken: signal(""),
    select,
    openPrompt(place) {
      const { prompt: before, otherPrompt } = selection.peek();
      const prompt = Math.max(0, Math.min(data.peek().ids.length - 1, place));
      // The prompt that stood on the other side of the comparison changes places with this one.
      const other =
        prompt === otherPrompt && prompt !== before
          ? { otherPrompt: before, otherToken: firstOrdinary(data.peek(), before) }
          : {};
      select({ prompt, tokens: [firstOrdinary(data.peek(), prompt)], ...other });
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
    add(payload) {
      const before = selection.peek();
      const last = before.prompt === data.peek().ids.length - 1;
      const more = addTo(data.peek(), read(payload), payload.continues ?? false);
      const prompt = more.ids.length - 1;
      // While tokens stream in, the reader's own choice of tokens in that prompt stays.
      const tokens = payload.continues && last ? before.tokens : [firstOrdinary(more, prompt)];
      batch(() => {
        data.value = more;
        selection.value = clamp(more, { ...before, prompt, tokens });
      });
      if (linked) write(address(), true);
    },
  };
}

/** Follows the browser's back and forward, and links that are followed within the page. */
export function followAddress(store: Store): () => void {
  if (!store.linked) return () => undefined;
  const follow = () => {
    const data = store.data.peek();
    // A page is opened without a selection in its address: going back to there brings the first one.
    const wanted = location.hash ? fromAddress(data, location.hash) : initial(data);
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
