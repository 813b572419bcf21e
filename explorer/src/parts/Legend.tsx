/** What colours and marks mean. */

import type { Scale } from "../colours.ts";
import type { Data } from "../data.ts";
import { number, short } from "../format.ts";
import { useStore } from "../store.ts";

const STEPS = 24;

const gradient = (scale: Scale): string[] =>
  Array.from({ length: STEPS + 1 }, (_, i) =>
    scale.colour(scale.low + ((scale.high - scale.low) * i) / STEPS),
  );

/** An end of a scale; what is nothing beside the other end is written as 0. */
const end = ({ low, high }: Scale, value: number) =>
  number(Math.abs(value) < 1e-6 * Math.max(Math.abs(low), Math.abs(high)) ? 0 : value, 3);

interface Props {
  scale: Scale;
  title: string;
  unit: string;
  note?: string;
  control?: boolean;
}

export function Legend({ scale, title, unit, note, control = false }: Props) {
  const name = useStore().data.value.controlName;
  return (
    <div class="ix-legend" title={note}>
      <span class="ix-legend-title">
        {title}
        {unit && <span class="ix-unit">{unit}</span>}
      </span>
      <span class="ix-scale">
        <span>{end(scale, scale.low)}</span>
        <i style={{ background: `linear-gradient(to right, ${gradient(scale).join(",")})` }} />
        <span>{end(scale, scale.high)}</span>
      </span>
      {control && <span class="ix-legend-note">strip below a token: {short(name, 24)}</span>}
    </div>
  );
}

/** The same scale inside a figure. */
export function FigureLegend({
  scale,
  x,
  y,
  width = 120,
  label,
  muted,
  ink,
  id,
}: {
  scale: Scale;
  x: number;
  y: number;
  width?: number;
  label: string;
  muted: string;
  ink: string;
  id: string;
}) {
  return (
    <g transform={`translate(${x} ${y})`} font-size={11}>
      <defs>
        <linearGradient id={id}>
          {gradient(scale).map((colour, i) => (
            <stop key={i} offset={i / STEPS} stop-color={colour} />
          ))}
        </linearGradient>
      </defs>
      <text y={-5} fill={ink}>
        {label}
      </text>
      <rect width={width} height={8} fill={`url(#${id})`} stroke={muted} stroke-width={0.5} />
      <text y={20} fill={muted}>
        {end(scale, scale.low)}
      </text>
      <text x={width} y={20} text-anchor="end" fill={muted}>
        {end(scale, scale.high)}
      </text>
    </g>
  );
}

/** How kinds of tokens are told apart, as far as the data have them. */
export function TokenMarks({ data }: { data: Data }) {
  return (
    <p class="ix-marks">
      {data.special && (
        <span>
          <i class="ix-chip ix-special">s</i> special
        </span>
      )}
      {data.word && (
        <span>
          <i class="ix-chip ix-word">wo</i>
          <i class="ix-chip">rd</i> pieces of one word touch
        </span>
      )}
      {data.generated && (
        <span>
          <i class="ix-chip ix-word ix-generated">g</i> generated
        </span>
      )}
      <span>
        <i class="ix-chip ix-word ix-undefined">n</i> not defined here
      </span>
      <span>click selects, Shift adds</span>
    </p>
  );
}
