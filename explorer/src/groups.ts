/** Groups as a reader chooses and reads them. */

import { type Data, type Group, groupings } from "./data.ts";
import { visible } from "./format.ts";

export function groupOptions(data: Data) {
  return [
    { value: "", text: "all tokens" },
    ...groupings(data).flatMap(({ label, values }) =>
      values.map((value) => ({ value: `${label}\u001f${value}`, text: visible(value), heading: label })),
    ),
  ];
}

export function parseGroup(value: string): Group | null {
  const [label, of] = value.split("\u001f");
  return label && of !== undefined ? { label, value: of } : null;
}

export const groupName = (group: Group | null) =>
  group ? `${group.label} = ${visible(group.value)}` : "all tokens";
