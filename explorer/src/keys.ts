/** The keyboard: what each key does, in one table that the help shows too. */

import { VIEWS } from "./selection.ts";
import type { Store } from "./store.ts";

interface Key {
  keys: string[];
  shown: string;
  does: string;
  act: (store: Store, event: KeyboardEvent) => void;
}

const view = (n: number) => (store: Store) => {
  store.select({ view: VIEWS[n] ?? "layers" });
};

export const KEYS: Key[] = [
  {
    keys: ["ArrowLeft"],
    shown: "←",
    does: "token before; with Shift, add it",
    act: (s, e) => {
      s.moveToken(-1, e.shiftKey);
    },
  },
  {
    keys: ["ArrowRight"],
    shown: "→",
    does: "next token; with Shift, add it",
    act: (s, e) => {
      s.moveToken(1, e.shiftKey);
    },
  },
  {
    keys: ["k"],
    shown: "k",
    does: "prompt before",
    act: (s) => {
      s.openPrompt(s.selection.peek().prompt - 1);
    },
  },
  {
    keys: ["j"],
    shown: "j",
    does: "next prompt",
    act: (s) => {
      s.openPrompt(s.selection.peek().prompt + 1);
    },
  },
  {
    keys: ["["],
    shown: "[",
    does: "one layer back, toward the input",
    act: (s) => {
      s.moveState(-1);
    },
  },
  {
    keys: ["]"],
    shown: "]",
    does: "one layer on, toward the output",
    act: (s) => {
      s.moveState(1);
    },
  },
  {
    keys: ["c"],
    shown: "c",
    does: "control on or off",
    act: (s) => {
      s.select({ control: !s.selection.peek().control });
    },
  },
  { keys: ["1"], shown: "1 … 5", does: "layers, lens, trajectory, attention, compare", act: view(0) },
  { keys: ["2"], shown: "", does: "", act: view(1) },
  { keys: ["3"], shown: "", does: "", act: view(2) },
  { keys: ["4"], shown: "", does: "", act: view(3) },
  { keys: ["5"], shown: "", does: "", act: view(4) },
  {
    keys: ["/"],
    shown: "/",
    does: "search the prompts",
    act: (s) => {
      s.root.querySelector<HTMLInputElement>(".ix-search")?.focus();
    },
  },
  {
    keys: ["?"],
    shown: "?",
    does: "these keys",
    act: (s) => {
      s.help.value = !s.help.peek();
    },
  },
  {
    keys: ["Escape"],
    shown: "Esc",
    does: "close what is open",
    act: (s) => {
      s.help.value = false;
      s.tip.value = null;
    },
  },
];

const TYPING = new Set(["INPUT", "SELECT", "TEXTAREA"]);

/** Fields take letters, and what can be scrolled sideways keeps its arrows. */
const keepsKeys = (target: HTMLElement, key: string) =>
  TYPING.has(target.tagName) ||
  target.isContentEditable ||
  (key.startsWith("Arrow") && target.closest(".ix-scroll") !== null);

function onScreen(element: HTMLElement): boolean {
  const { top, bottom } = element.getBoundingClientRect();
  return top < innerHeight * 0.6 && bottom > innerHeight * 0.3;
}

/** Keys belong to the explorer if the focus is in it, or nowhere while it is on the screen. */
function ours(store: Store, event: KeyboardEvent): boolean {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return false;
  if (event.key === "Escape") return true;
  // What the dialog of keys covers does not change behind it.
  if (store.help.peek()) return event.key === "?";
  if (!(event.target instanceof HTMLElement)) return store.root.contains(event.target as Node | null);
  if (keepsKeys(event.target, event.key)) return false;
  return (
    store.root.contains(event.target) ||
    (store.linked && event.target === document.body && onScreen(store.root))
  );
}

export function listen(store: Store): () => void {
  const onKey = (event: KeyboardEvent) => {
    const key = KEYS.find(({ keys }) => keys.includes(event.key));
    if (!key || !ours(store, event)) return;
    if (event.key !== "Escape") event.preventDefault();
    key.act(store, event);
  };
  document.addEventListener("keydown", onKey);
  return () => {
    document.removeEventListener("keydown", onKey);
  };
}
