/** Two prompts above each other, aligned. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Pair } from "../align.ts";
import { type Colours, inkOn, type Scale } from "../colours.ts";
import { type Data, type Measure, text, valueOf } from "../data.ts";
import { exact, number, short } from "../format.ts";
import { useStore } from "../store.ts";
import { kindOf } from "../views/Text.tsx";
import { Pages } from "./Pages.tsx";
import { TokenValues } from "./Tip.tsx";

/** So many pairs are drawn at once; each change of the layer paints them all anew. */
export const PAIRS = 120;

interface PairsProps {
  data: Data;
  pairs: Pair[];
  firsts: [number, number];
  measure: Measure;
  depth: number;
  paint: Scale;
  colours: Colours;
  chosen: number[];
}

export function half(p: PairsProps, side: 0 | 1, position: number | null) {
  if (position === null) return <span class="ix-gap" role="img" aria-label="no token" />;
  const token = p.firsts[side] + position;
  const value = valueOf(p.measure, token, p.depth);
  const fill = p.paint.colour(value);
  const kinds = [
    kindOf(p.data, token, p.firsts[side]).replace("ix-word", ""),
    Number.isNaN(value) ? "ix-undefined" : "",
    side === 0 && p.chosen.includes(position) ? "ix-chosen" : "",
  ];
  return (
    <button
      type="button"
      tabIndex={-1}
      class={kinds.join(" ")}
      dir="auto"
      style={Number.isNaN(value) ? undefined : { background: fill, color: inkOn(fill, p.colours) }}
      data-token={token}
      data-position={position}
      data-side={side ? "b" : "a"}
      data-measure={p.measure.name}
      data-depth={p.depth}
      data-value={exact(value)}
    >
      {short(text(p.data, token), 20)}
    </button>
  );
}

/** The part of the pairs that is shown: that of the token chosen last, until the reader turns pages. */
function usePart({ pairs, chosen }: PairsProps): [number, (part: number) => void] {
  const last = chosen[chosen.length - 1] ?? 0;
  const [turned, turn] = useState<{ pairs: Pair[]; last: number; part: number } | null>(null);
  if (turned?.pairs === pairs && turned.last === last) return [turned.part, put];
  const at = pairs.findIndex(({ a }) => a === last);
  return [Math.floor(Math.max(0, at) / PAIRS), put];

  function put(part: number) {
    turn({ pairs, last, part });
  }
}

/** Both prompts above each other; equal tokens face each other. */
export function Pairs(p: PairsProps) {
  const store = useStore();
  const [part, setPart] = usePart(p);
  const box = useRef<HTMLDivElement>(null);
  const [more, setMore] = useState(false);
  useLayoutEffect(() => {
    const pane = box.current;
    if (pane) setMore(pane.scrollHeight > pane.clientHeight + 4);
  }, [p.pairs, part]);
  const at = (event: Event) =>
    event.target instanceof Element ? event.target.closest<HTMLElement>("[data-token]") : null;
  return (
    <>
      <Pages what="pairs" page={part} size={PAIRS} length={p.pairs.length} onPage={setPart} />
      <div
        ref={box}
        class="ix-pairs"
        tabIndex={more ? 0 : undefined}
        role="group"
        aria-label="Aligned tokens: A above, B below, difference under them"
        onPointerOver={(event) => {
          const chip = at(event);
          if (!chip) return;
          const box = chip.getBoundingClientRect();
          store.tip.value = {
            x: box.left,
            y: box.bottom,
            content: <TokenValues token={Number(chip.dataset["token"])} />,
          };
        }}
        onPointerLeave={() => {
          store.tip.value = null;
        }}
        onClick={(event) => {
          const chip = at(event);
          if (!chip) return;
          const position = Number(chip.dataset["position"]);
          if (chip.dataset["side"] === "a") store.choose(position, event.shiftKey);
          else store.select({ otherToken: position });
        }}
      >
        <div class="ix-pair ix-pair-names" aria-hidden="true">
          <b>A</b>
          <b>B</b>
          <small>A − B</small>
        </div>
        {p.pairs.slice(part * PAIRS, (part + 1) * PAIRS).map((pair, i) => {
          const both = pair.a !== null && pair.b !== null;
          const difference = both
            ? valueOf(p.measure, p.firsts[0] + (pair.a ?? 0), p.depth) -
              valueOf(p.measure, p.firsts[1] + (pair.b ?? 0), p.depth)
            : NaN;
          return (
            <div key={i} class={pair.same ? "ix-pair" : "ix-pair ix-unlike"}>
              {half(p, 0, pair.a)}
              {half(p, 1, pair.b)}
              <small data-difference={exact(difference)}>{number(difference, 3)}</small>
            </div>
          );
        })}
      </div>
      {more && <p class="ix-note">↓ The strip scrolls.</p>}
    </>
  );
}
