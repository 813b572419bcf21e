/** A square of values, queries by keys: rectangles while they can be told apart, else a picture. */

import type { Scale } from "../colours.ts";
import { picture } from "../pixels.ts";
import { exact } from "../format.ts";

export interface MatrixProps {
  values: ArrayLike<number>;
  offset: number;
  length: number;
  size: number;
  scale: Scale;
  head: string;
  control?: boolean;
}

/** Up to so many rows the cells are rectangles, which stay sharp in print. */
const RECTANGLES = 48;

export function Matrix({ values, offset, length, size, scale, head, control = false }: MatrixProps) {
  const cell = size / Math.max(1, length);
  if (length > RECTANGLES) {
    return (
      <image
        width={size}
        height={size}
        href={picture(values, offset, length, scale)}
        preserveAspectRatio="none"
        style="image-rendering: pixelated"
      />
    );
  }
  const gap = cell > 8 ? 0.5 : 0;
  return (
    <g shape-rendering={gap ? undefined : "crispEdges"}>
      {Array.from({ length: length * length }, (_, i) => {
        const value = values[offset + i] ?? NaN;
        // What was masked has no weight at all and stays empty.
        if (!(value > 0)) return null;
        const [query, key] = [Math.floor(i / length), i % length];
        return (
          <rect
            key={i}
            x={key * cell}
            y={query * cell}
            width={cell - gap}
            height={cell - gap}
            fill={scale.colour(value)}
            data-head={head}
            data-query={query}
            data-key={key}
            data-value={exact(value)}
            data-control={control ? "true" : undefined}
          />
        );
      })}
    </g>
  );
}
