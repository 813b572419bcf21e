/** Attention as arcs over the text: above, where a token looks; below, which tokens look at it. */

import { type Colours, MONO } from "../colours.ts";
import { exact, percent, short } from "../format.ts";
import { widthOf } from "../views/TextFigure.tsx";

export interface Arc {
  position: number;
  weight: number;
}

export interface ArcsProps {
  /** Up to so many tokens the whole prompt is written. */
  all?: number;
  texts: (position: number) => string;
  length: number;
  query: number;
  /** Weights of the keys that the token looks at, and of the queries that look at it. */
  to: Arc[];
  from: Arc[];
  colours: Colours;
  colour: string;
  head: string;
  onChoose?: (position: number) => void;
}

/** Weaker arcs would only be a fog. */
export const LEAST = 0.01;
const ALL = 120;
const RISE = 130;
const DROP = 76;

/** In a long prompt only the tokens that have an arc are written. */
export function written(length: number, query: number, arcs: Arc[], all = ALL): number[] {
  if (length <= all) return Array.from({ length }, (_, i) => i);
  return [...new Set([query, ...arcs.map((a) => a.position)])].sort((a, b) => a - b);
}

interface Word {
  position: number;
  text: string;
  x: number;
  width: number;
  skipped: boolean;
}

export function layArcs({
  texts,
  length,
  query,
  to,
  from,
  all = ALL,
}: Pick<ArcsProps, "texts" | "length" | "query" | "to" | "from" | "all">) {
  const words: Word[] = [];
  let x = 8;
  let before = -1;
  for (const position of written(length, query, [...to, ...from], all)) {
    const skipped = position > before + 1;
    if (skipped) x += 18;
    const text = short(texts(position), 16);
    const width = widthOf(text, 12.5) + 8;
    words.push({ position, text, x, width, skipped });
    x += width + 3;
    before = position;
  }
  return { words, width: x + 8, height: RISE + DROP + 30 };
}

function curve(a: number, b: number, base: number, most: number): string {
  const rise = Math.min(Math.abs(most) - 8, 16 + Math.abs(a - b) * 0.42) * Math.sign(most);
  return `M${a.toFixed(1)} ${base}C${a.toFixed(1)} ${(base - rise).toFixed(1)} ${b.toFixed(1)} ${(base - rise).toFixed(1)} ${b.toFixed(1)} ${base}`;
}

/** A token that looks at itself has a small loop. */
const loop = (x: number, base: number, up: number) =>
  `M${x - 5} ${base}C${x - 16} ${base - up} ${x + 16} ${base - up} ${x + 5} ${base}`;

export function Arcs(props: ArcsProps) {
  const { query, to, from, colours, colour, head, onChoose } = props;
  const { words } = layArcs(props);
  const centre = new Map(words.map((w) => [w.position, w.x + w.width / 2]));
  const start = centre.get(query) ?? 0;
  const draw = (arc: Arc, up: boolean) => {
    const end = centre.get(arc.position) ?? 0;
    const base = up ? RISE : RISE + 26;
    const path =
      arc.position === query ? loop(start, base, up ? 30 : -30) : curve(start, end, base, up ? RISE : -DROP);
    const [q, k] = up ? [query, arc.position] : [arc.position, query];
    return (
      <path
        key={`${up}${arc.position}`}
        d={path}
        fill="none"
        stroke={up ? colour : colours.control}
        stroke-linecap="round"
        stroke-width={0.75 + arc.weight * 9}
        opacity={0.35 + 0.6 * Math.sqrt(arc.weight)}
        data-head={head}
        data-query={q}
        data-key={k}
        data-value={exact(arc.weight)}
      >
        <title>{`${props.texts(q)} (${q}) looks at ${props.texts(k)} (${k}): ${percent(arc.weight)}`}</title>
      </path>
    );
  };
  const weights = new Map(to.map((a) => [a.position, a.weight]));
  const strongest = [...to]
    .sort((a, b) => b.weight - a.weight)
    .slice(0, 3)
    .map((a) => a.position);
  return (
    <g>
      {from.map((arc) => draw(arc, false))}
      {to.map((arc) => draw(arc, true))}
      <g font-family={MONO} font-size={12.5}>
        {words.map((w) => (
          <g
            key={w.position}
            transform={`translate(${w.x} ${RISE + 2})`}
            onClick={
              onChoose &&
              (() => {
                onChoose(w.position);
              })
            }
            style={onChoose ? "cursor: pointer" : undefined}
          >
            {w.skipped && (
              <text x={-15} y={16} fill={colours.muted}>
                …
              </text>
            )}
            <rect
              width={w.width}
              height={22}
              rx={3}
              fill={w.position === query ? colour : colours.paper}
              fill-opacity={w.position === query ? 0.18 : 1}
              stroke={w.position === query ? colour : "none"}
              stroke-width={2}
            />
            <text
              x={w.width / 2}
              y={15.5}
              text-anchor="middle"
              fill={colours.ink}
              opacity={w.position === query || weights.has(w.position) ? 1 : 0.62}
            >
              {w.text}
            </text>
            {strongest.includes(w.position) && w.position !== query && (
              <text
                x={w.width / 2}
                y={36}
                text-anchor="middle"
                font-size={10}
                fill={colours.muted}
                stroke={colours.paper}
                stroke-width={3}
                paint-order="stroke"
              >
                {percent(weights.get(w.position) ?? NaN)}
              </text>
            )}
          </g>
        ))}
      </g>
    </g>
  );
}
