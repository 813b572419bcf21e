/** The panel beside the pointer: all values of a token, or what a lens reads. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import {
  column,
  type Data,
  family,
  labelsOf,
  type Measure,
  promptOf,
  span,
  stateName,
  text,
  valueOf,
} from "../data.ts";
import { exact, number, percent, short } from "../format.ts";
import { useStore } from "../store.ts";
import { readoutAt } from "../readout.ts";

const GAP = 14;

/** Keeps the panel on the screen and off the pointer; on a narrow screen it lies at the bottom (CSS). */
export function Tip() {
  const { tip } = useStore();
  const close = () => {
    tip.value = null;
  };
  const ref = useRef<HTMLDivElement>(null);
  const [size, setSize] = useState({ width: 260, height: 120 });
  const shown = tip.value;
  useLayoutEffect(() => {
    const box = ref.current;
    if (box && (box.offsetWidth !== size.width || box.offsetHeight !== size.height)) {
      setSize({ width: box.offsetWidth, height: box.offsetHeight });
    }
  });
  if (!shown) return null;
  const right = shown.x + GAP + size.width < innerWidth;
  const left = right ? shown.x + GAP : Math.max(4, shown.x - GAP - size.width);
  const top = Math.max(4, Math.min(shown.y + GAP, innerHeight - size.height - 4));
  return (
    <div ref={ref} class="ix-tip" role="tooltip" style={{ left: `${left}px`, top: `${top}px` }}>
      <button type="button" class="ix-small ix-tip-close" aria-label="Close" onClick={close}>
        ×
      </button>
      {shown.content}
    </div>
  );
}

interface RowProps {
  data: Data;
  measure: Measure;
  token: number;
  state: number;
  control: boolean;
  chosen: boolean;
}

function ValueRow({ measure, token, state, control, chosen }: RowProps) {
  const depth = column(measure, state);
  const of = (side: boolean) => valueOf(measure, token, depth, side);
  const marks = { "data-measure": measure.name, "data-token": token, "data-depth": depth };
  return (
    <tr class={chosen ? "ix-chosen" : ""}>
      <th scope="row">{measure.title}</th>
      <td {...marks} data-value={exact(of(false))}>
        {number(of(false))}
      </td>
      {control && (
        <td class="ix-of-control" {...marks} data-control="true" data-value={exact(of(true))}>
          {measure.control ? number(of(true)) : ""}
        </td>
      )}
      <td class="ix-unit">{measure.unit}</td>
    </tr>
  );
}

/** The measures beside the pointer: the one that colours the tokens first, then others of its analysis. */
const MOST_ROWS = 5;

export function nearest(measures: Measure[], name: string): Measure[] {
  const own = measures.find((m) => m.name === name) ?? measures[0];
  if (!own) return [];
  const others = measures.filter((m) => m !== own && family(m) === family(own));
  return [own, ...others].slice(0, MOST_ROWS);
}

/** A token's name, place and labels, and the chosen measure at the chosen depth, or every one. */
export function TokenValues({ token, all = false }: { token: number; all?: boolean }) {
  const store = useStore();
  const data = store.data.value;
  const { control, measure, state } = store.selection.value;
  const position = token - span(data, promptOf(data, token)).first;
  const labels = labelsOf(data, token);
  const sides = control && data.measures.some((m) => m.control);
  const measures = all ? data.measures : nearest(data.measures, measure);
  return (
    <>
      <p class="ix-tip-head">
        <bdi class="ix-mono">{short(text(data, token), 60)}</bdi>
        <span>
          position {position} · {stateName(state)}
        </span>
      </p>
      {labels.length > 0 && (
        <p class="ix-tip-labels">
          {labels.map(([name, value]) => (
            <span key={name}>
              {short(name, 30)}: <bdi>{short(value, 40)}</bdi>
            </span>
          ))}
        </p>
      )}
      <table class={measures.length > 16 ? "ix-values ix-dense" : "ix-values"}>
        {sides && (
          <thead>
            <tr>
              <td />
              <th scope="col">model</th>
              <th scope="col" class="ix-of-control">
                {short(data.controlName, 16)}
              </th>
              <td />
            </tr>
          </thead>
        )}
        <tbody>
          {measures.map((m) => (
            <ValueRow
              key={m.name}
              data={data}
              measure={m}
              token={token}
              state={state}
              control={sides}
              chosen={m.name === measure}
            />
          ))}
        </tbody>
      </table>
    </>
  );
}

/** What the lens reads at a token and a state: the most probable tokens with their bars. */
export function TopTokens({
  token,
  state,
  control = false,
}: {
  token: number;
  state: number;
  control?: boolean;
}) {
  const data = useStore().data.value;
  const { lens } = data;
  if (!lens) return null;
  const read = readoutAt(lens, token, state, control);
  if (!read.length) return <p class="ix-note">Nothing was read here.</p>;
  return (
    <ol class="ix-top">
      {read.map(({ text: word, prob }, i) => (
        <li key={i} data-rank={i} data-top={word} data-prob={exact(prob)}>
          <bdi class="ix-mono">{short(word, 28)}</bdi>
          <span class="ix-bar">
            <i style={{ width: `${Math.max(0.5, prob * 100)}%` }} />
          </span>
          <span class="ix-share">{percent(prob)}</span>
        </li>
      ))}
    </ol>
  );
}
