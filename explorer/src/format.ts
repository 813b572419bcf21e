/** Numbers, tokens and names as text. */

const VISIBLE: Record<string, string> = { "\n": "↵", "\r": "␍", "\t": "⇥", " ": "·" };

/** A token with its newlines and leading spaces made visible; the empty one as ∅. */
export function visible(token: string): string {
  const spaces = /^ */.exec(token)?.[0].length ?? 0;
  const all = spaces === token.length ? token.replaceAll(" ", "·") : "·".repeat(spaces) + token.slice(spaces);
  const out = all.replace(/[\n\r\t]/g, (c) => VISIBLE[c] ?? c).replace(UNPRINTABLE, escaped);
  return out || "∅";
}

// Control characters, separators and marks of direction change how the text around them is shown.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu;
// Emoji of several parts are held together by these two.
const JOINERS = new Set(["\u200d", "\u200c"]);

function escaped(c: string): string {
  return JOINERS.has(c) ? c : `\\x${(c.codePointAt(0) ?? 0).toString(16).padStart(2, "0")}`;
}

const parts = new Intl.Segmenter("en", { granularity: "grapheme" });

/** At most `limit` characters, as a reader counts them. */
export function short(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const all = [...parts.segment(text.slice(0, limit * 8))].map((s) => s.segment);
  return all.length <= limit && text.length <= limit * 8 ? text : `${all.slice(0, limit - 1).join("")}…`;
}

/** A number with four digits; a dash if it is not defined. */
export function number(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4)
    return value
      .toExponential(digits - 2)
      .replace("-", "−")
      .replace("e−", "e−");
  const text =
    size >= 10 ** (digits - 1) ? Math.round(value).toString() : Number(value.toPrecision(digits)).toString();
  return text.replace("-", "−");
}

/** A share as a percentage that never shows 0 for something or 100 for almost all. */
export function percent(share: number): string {
  if (Number.isNaN(share)) return "–";
  const value = share * 100;
  if (value > 0 && value < 0.1) return "<0.1 %";
  if (value > 99.9 && value < 100) return ">99.9 %";
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} %`;
}

/** The full number as the data hold it, for tests and for machines. */
export const exact = (value: number): string => String(value);

/** A file name without anything that a shell, a system or a reader could take for something else. */
export function slug(...words: string[]): string {
  const joined = words
    .join("-")
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "");
  return joined.slice(0, 80).replace(/-+$/, "") || "explorer";
}

export type Cell = string | number | null;

function cell(value: Cell): string {
  if (value === null) return "";
  if (typeof value === "number") return Number.isNaN(value) ? "" : String(value);
  // A spreadsheet would calculate what begins like this; inside quotation marks it stays text.
  const safe = /^[=+\-@\t\r]/.test(value) ? JSON.stringify(value) : value;
  return /[",\n\r]/.test(safe) || safe !== safe.trim() ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A CSV file (RFC 4180) after its notes, each in a line that begins with `#`. */
export function csv(columns: string[], rows: Cell[][], notes: string[] = []): string {
  const head = notes.map((note) => `# ${note.replace(/\s+/g, " ")}`);
  return (
    [...head, columns.map(cell).join(","), ...rows.map((row) => row.map(cell).join(","))].join("\r\n") +
    "\r\n"
  );
}
