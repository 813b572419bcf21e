/** The look of figures in the light and in the dark; figures that are saved are always light. */

import { scaleLinear } from "d3-scale";

export type Theme = "light" | "dark";

export interface Colours {
  theme: Theme;
  ink: string;
  muted: string;
  grid: string;
  paper: string;
  accent: string;
  control: string;
  band: string;
  /** Colours of chosen tokens: Okabe and Ito's, distinct for all common types of colour vision. */
  tokens: readonly string[];
  low: readonly string[];
  both: readonly string[];
}

export const FONT = "Inter, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif";
export const MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";
/** Lines of chosen tokens differ in their strokes too, for print and for colour-blind readers. */
export const STROKES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "1 4", "9 3 2 3 2 3"] as const;

const LIGHT: Colours = {
  theme: "light",
  ink: "#1f2328",
  muted: "#59636e",
  grid: "#e6e9ec",
  paper: "#ffffff",
  accent: "#0a5c99",
  control: "#7d8590",
  band: "#8fb4d0",
  tokens: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a67300", "#3d9ad1", "#7a5c3e", "#5b4b9a"],
  low: ["#f6f9fb", "#d3e3f0", "#8db9db", "#3b83bd", "#08457e"],
  both: ["#b3400a", "#e8a57c", "#f8f9fa", "#7fb2d9", "#08457e"],
};

const DARK: Colours = {
  theme: "dark",
  ink: "#e6eaee",
  muted: "#a0abb6",
  grid: "#2c343c",
  paper: "#14181d",
  accent: "#6cb6f0",
  control: "#8f99a3",
  band: "#4f7fa3",
  tokens: ["#5ab4ec", "#f08a3c", "#35c79b", "#e39cc5", "#e8b23a", "#9bd3f5", "#c9a27c", "#a899e6"],
  low: ["#1b222a", "#1f3d57", "#2a6596", "#5aa0d6", "#c4e4fb"],
  both: ["#f6a26b", "#8a4a20", "#20272e", "#2f6d9d", "#9fd2f7"],
};

export const coloursOf = (theme: Theme): Colours => (theme === "dark" ? DARK : LIGHT);

export interface Scale {
  /** Ends of the scale; a value beyond them has the colour of the end. */
  low: number;
  high: number;
  diverging: boolean;
  colour: (value: number) => string;
}

/** A colour scale over an extent: one tone, or two around zero when the values have both signs. */
export function scale(low: number, high: number, colours: Colours): Scale {
  const diverging = low < 0 && high > 0;
  const far = Math.max(Math.abs(low), Math.abs(high));
  const [from, to] = diverging ? [-far, far] : [low, high];
  const stops = diverging ? colours.both : colours.low;
  const wide = to > from ? to - from : 1;
  const paint = scaleLinear<string>()
    .domain(stops.map((_, i) => from + (wide * i) / (stops.length - 1)))
    .range(stops)
    .clamp(true);
  return { low: from, high: to, diverging, colour: (v) => (Number.isNaN(v) ? "transparent" : paint(v)) };
}

const channels = (colour: string): number[] =>
  colour.startsWith("#")
    ? [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))
    : (colour.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);

/** The share of light that a colour throws back (WCAG 2). */
export function luminance(colour: string): number {
  const [r = 0, g = 0, b = 0] = channels(colour).map((c) => {
    const part = c / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Black or white, whichever is read better on a colour. */
export function inkOn(colour: string, colours: Colours): string {
  if (colour === "transparent") return colours.ink;
  const light = luminance(colour) + 0.05;
  return 1.05 / light >= light / 0.05 ? "#ffffff" : "#000000";
}
