/** A table of what a chart draws, made when it is opened: to read, for screen readers and for tests. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Measure } from "../data.ts";

interface Props {
  measure: Measure;
  /** What a row is. */
  of: string;
  rows: () => ComponentChildren;
}

export function Numbers({ measure, of, rows }: Props) {
  const [open, setOpen] = useState(false);
  return (
    <details
      class="ix-numbers"
      onToggle={(e) => {
        setOpen(e.currentTarget.open);
      }}
    >
      <summary>Numbers</summary>
      {open && (
        <div class="ix-scroll" tabIndex={0} role="region" aria-label="Numbers">
          <table class="ix-table">
            <thead>
              <tr>
                <th scope="col">{of}</th>
                {measure.depth.map((d, i) => (
                  <th key={i} scope="col">
                    {d || measure.title}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>{rows()}</tbody>
          </table>
        </div>
      )}
    </details>
  );
}
