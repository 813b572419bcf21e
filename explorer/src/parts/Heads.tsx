/** The grid of heads: a pure figure, and the one on the page that listens. */

import { useRef } from "preact/hooks";
import type { Colours, Scale } from "../colours.ts";
import type { Attention, Statistic } from "../data.ts";
import { exact, number } from "../format.ts";
import { useWidth } from "../hooks.ts";
import { type Store, useStore } from "../store.ts";
import { Subtitle } from "./Controls.tsx";

interface GridProps {
  attention: Attention;
  statistic: Statistic;
  values: Float32Array;
  control: boolean;
  paint: Scale;
  colours: Colours;
  head: [number, number];
  width: number;
  onChoose?: (block: number, head: number) => void;
}

export const HEADS_LEFT = 48;
const TOP = 24;
const cellSize = (width: number, heads: number) =>
  Math.max(7, Math.min(52, (width - HEADS_LEFT - 4) / heads));
const cellHeight = (cell: number, blocks: number) => Math.max(9, Math.min(28, cell, 440 / blocks));

export function Heads({
  attention,
  statistic,
  values,
  control,
  paint,
  colours,
  head,
  width,
  onChoose,
}: GridProps) {
  const cell = cellSize(width, attention.heads);
  const tall = cellHeight(cell, attention.blocks);
  const every = Math.ceil(22 / cell);
  // The first block is at the bottom, as in all figures by block.
  const last = attention.blocks - 1;
  const middle = TOP + (attention.blocks * tall) / 2;
  return (
    <g font-size={10.5} fill={colours.muted}>
      {Array.from(
        { length: attention.heads },
        (_, h) =>
          h % every === 0 && (
            <text key={h} x={HEADS_LEFT + (h + 0.5) * cell} y={TOP - 6} text-anchor="middle">
              {h}
            </text>
          ),
      )}
      <text x={HEADS_LEFT + (attention.heads * cell) / 2} y={8} text-anchor="middle" font-size={10}>
        head
      </text>
      <text transform={`translate(10 ${middle}) rotate(-90)`} text-anchor="middle" font-size={10}>
        block
      </text>
      {Array.from({ length: attention.blocks }, (_, b) => (
        <g key={b} transform={`translate(0 ${TOP + (last - b) * tall})`}>
          {b % Math.ceil(13 / tall) === 0 && (
            <text x={HEADS_LEFT - 6} y={tall / 2} dy="0.34em" text-anchor="end">
              {b}
            </text>
          )}
          {Array.from({ length: attention.heads }, (__, h) => {
            const value = values[b * attention.heads + h] ?? NaN;
            return (
              <rect
                key={h}
                x={HEADS_LEFT + h * cell}
                width={cell - 1}
                height={tall - 1}
                fill={Number.isNaN(value) ? colours.paper : paint.colour(value)}
                stroke={Number.isNaN(value) ? colours.grid : undefined}
                data-head={`${b}.${h}`}
                data-statistic={statistic.name}
                data-value={exact(value)}
                data-control={control ? "true" : undefined}
                onClick={
                  onChoose &&
                  (() => {
                    onChoose(b, h);
                  })
                }
                style={onChoose ? "cursor: pointer" : undefined}
              />
            );
          })}
        </g>
      ))}
      <rect
        x={HEADS_LEFT + head[1] * cell - 1}
        y={TOP + (last - head[0]) * tall - 1}
        width={cell + 1}
        height={tall + 1}
        fill="none"
        stroke={colours.tokens[1]}
        stroke-width={2.5}
        pointer-events="none"
      />
    </g>
  );
}

export const gridHeight = (attention: Attention, width: number) =>
  TOP + attention.blocks * cellHeight(cellSize(width, attention.heads), attention.blocks) + 4;

/** Arrow keys move the head while the focus is on the grid. */
function headKeys(store: Store) {
  return (event: KeyboardEvent) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const [block, head] = store.selection.peek().head;
    store.select({ head: [block + (step[0] ?? 0), head + (step[1] ?? 0)], rollout: false });
  };
}

/** All statistics of a head, with the control's beside them where they are switched on. */
function HeadValues({
  attention,
  block,
  head,
  chosen,
  control,
}: {
  attention: Attention;
  block: number;
  head: number;
  chosen: Statistic;
  control: boolean;
}) {
  const at = block * attention.heads + head;
  const cell = (s: Statistic, values: Float32Array, side: boolean) => (
    <td
      class={side ? "ix-of-control" : undefined}
      data-head={`${block}.${head}`}
      data-statistic={s.name}
      data-value={exact(values[at] ?? NaN)}
      data-control={side ? "true" : undefined}
    >
      {number(values[at])}
    </td>
  );
  return (
    <table class="ix-values">
      <tbody>
        {attention.statistics.map((s) => (
          <tr key={s.name} class={s === chosen ? "ix-chosen" : ""} title={s.doc}>
            <th scope="row">{s.title}</th>
            {cell(s, s.values, false)}
            {control && s.control && cell(s, s.control, true)}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The chosen head in numbers, under the grid, where a keyboard or a finger reads them too. */
export function HeadCard({ attention, statistic }: { attention: Attention; statistic: Statistic }) {
  const store = useStore();
  const data = store.data.value;
  const {
    head: [block, head],
    control,
  } = store.selection.value;
  const beside = control && attention.statistics.some((s) => s.control);
  return (
    <div class="ix-lens-chosen ix-head-card">
      <Subtitle>
        block {block}, head {head}{" "}
        <span>means over all prompts{beside && `; italic: ${data.controlName}`}</span>
      </Subtitle>
      <HeadValues attention={attention} block={block} head={head} chosen={statistic} control={control} />
    </div>
  );
}

export function Grid({
  attention,
  statistic,
  paint,
}: {
  attention: Attention;
  statistic: Statistic;
  paint: Scale;
}) {
  const store = useStore();
  const data = store.data.value;
  const colours = store.colours.value;
  const { head, control } = store.selection.value;
  const box = useRef<HTMLDivElement>(null);
  const room = Math.min(useWidth(box, 420), 460);
  const sides = control && statistic.control ? [false, true] : [false];
  const half = Math.floor((room - 12) / 2);
  const width = sides.length > 1 && half > HEADS_LEFT + 12 * attention.heads ? half : room;
  const height = gridHeight(attention, width);
  const hover = (event: PointerEvent) => {
    const cell =
      event.target instanceof Element ? event.target.closest<SVGElement>("[data-statistic]") : null;
    const [block, of] = (cell?.dataset["head"] ?? "").split(".").map(Number);
    store.tip.value =
      block === undefined || of === undefined
        ? null
        : {
            x: event.clientX,
            y: event.clientY,
            content: (
              <>
                <p class="ix-tip-head">
                  block {block}, head {of}
                </p>
                <HeadValues
                  attention={attention}
                  block={block}
                  head={of}
                  chosen={statistic}
                  control={control}
                />
              </>
            ),
          };
  };
  return (
    <div ref={box} class="ix-heads">
      {sides.map((side) => (
        <div key={String(side)}>
          {sides.length > 1 && <p class="ix-note">{side ? data.controlName : "model"}</p>}
          <svg
            class="ix-figure"
            width={width}
            height={height}
            tabIndex={side ? undefined : 0}
            role="img"
            onKeyDown={headKeys(store)}
            onPointerOver={hover}
            onPointerLeave={() => {
              store.tip.value = null;
            }}
            aria-label={`${statistic.title} of every head${side ? `, ${data.controlName}` : ""}; arrow keys choose a head: block ${head[0]}, head ${head[1]}, ${number(statistic.values[head[0] * attention.heads + head[1]])}`}
          >
            <Heads
              attention={attention}
              statistic={statistic}
              values={(side ? statistic.control : statistic.values) ?? statistic.values}
              control={side}
              paint={paint}
              colours={colours}
              head={head}
              width={width}
              onChoose={(b, h) => {
                store.select({ head: [b, h], rollout: false });
              }}
            />
          </svg>
        </div>
      ))}
    </div>
  );
}

/** The heads with the largest values, as buttons: most questions are about these. */
export function Strongest({ attention, statistic }: { attention: Attention; statistic: Statistic }) {
  const store = useStore();
  const best = [...statistic.values.keys()]
    .filter((i) => Number.isFinite(statistic.values[i] ?? NaN))
    .sort((a, b) => (statistic.values[b] ?? 0) - (statistic.values[a] ?? 0))
    .slice(0, 4);
  return (
    <p class="ix-strongest">
      Largest:{" "}
      {best.map((i) => {
        const [b, h] = [Math.floor(i / attention.heads), i % attention.heads];
        return (
          <button
            key={i}
            type="button"
            class="ix-small"
            onClick={() => {
              store.select({ head: [b, h], rollout: false });
            }}
          >
            L{b}H{h} <span class="ix-unit">{number(statistic.values[i], 3)}</span>
          </button>
        );
      })}
    </p>
  );
}
