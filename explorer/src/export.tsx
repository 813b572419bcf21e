/** Saving what a view shows: SVG, PNG and CSV, each with where the numbers come from. */

import { type ComponentChild, render } from "preact";
import { type Cell, csv, slug } from "./format.ts";

export interface Sheet {
  columns: string[];
  rows: Cell[][];
}

export interface Saved {
  /** Words of the file's name. */
  name: string[];
  title: string;
  provenance: string;
  /** The figure in the light, drawn anew, and its size. */
  figure: () => { content: ComponentChild; width: number; height: number };
  sheet: () => Sheet;
}

export const MARGIN = 24;
const HEAD = 34;
const FOOT = 30;

export function download(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  // The browser reads the address after this turn; a minute is enough for it to start.
  setTimeout(() => {
    URL.revokeObjectURL(link.href);
  }, 60_000);
}

/** Cuts a sentence into lines of at most so many characters. */
export function lines(text: string, most: number): string[] {
  const out: string[] = [""];
  for (const word of text.split(/\s+/)) {
    const last = out[out.length - 1] ?? "";
    if (last && last.length + word.length + 1 > most) out.push(word);
    else out[out.length - 1] = last ? `${last} ${word}` : word;
  }
  return out;
}

// XML forbids most control characters, even as entities; they are shown as text before they come here.
// eslint-disable-next-line no-control-regex
const FORBIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g;

/** A whole SVG file: title, figure, provenance. */
export function svgFile({ title, provenance, figure }: Saved): {
  text: string;
  width: number;
  height: number;
} {
  const { content, width: inner, height: tall } = figure();
  const width = Math.max(360, inner) + 2 * MARGIN;
  const said = lines(provenance, Math.floor((width - 2 * MARGIN) / 6));
  const foot = FOOT + 14 * said.length;
  const height = tall + HEAD + MARGIN + foot;
  const box = document.createElement("div");
  render(
    <svg
      xmlns="http://www.w3.org/2000/svg"
      width={width}
      height={height}
      viewBox={`0 0 ${width} ${height}`}
      font-family="Inter, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
    >
      <title>{title}</title>
      <rect width={width} height={height} fill="#ffffff" />
      <text x={MARGIN} y={MARGIN + 8} font-size={16} font-weight={600} fill="#1f2328">
        {title}
      </text>
      <g transform={`translate(${MARGIN} ${HEAD + MARGIN / 2})`}>{content}</g>
      {said.map((line, i) => (
        <text key={i} x={MARGIN} y={height - foot + FOOT + 14 * i} font-size={11} fill="#59636e">
          {line}
        </text>
      ))}
    </svg>,
    box,
  );
  const svg = box.firstElementChild;
  const text = svg ? new XMLSerializer().serializeToString(svg).replace(FORBIDDEN, "") : "";
  render(null, box);
  return { text, width, height };
}

/** Canvases beyond this are refused by browsers; larger figures are drawn smaller. */
const MOST_PIXELS = 60e6;

async function png(saved: Saved): Promise<Blob> {
  const { text, width, height } = svgFile(saved);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const zoom = Math.min(2, Math.sqrt(MOST_PIXELS / (width * height)), 16_000 / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * zoom);
  canvas.height = Math.round(height * zoom);
  const context = canvas.getContext("2d");
  context?.drawImage(image, 0, 0, canvas.width, canvas.height);
  // The first row is white, and a browser that hides pixels gives others in their place.
  if (context?.getImageData(0, 0, canvas.width, 1).data.some((part) => part !== 255))
    throw new Error("This browser hides pictures from pages (resistFingerprinting); save the SVG.");
  return new Promise((done, failed) => {
    canvas.toBlob((blob) => {
      if (blob) done(blob);
      else failed(new Error("The browser could not make a PNG of this size; save the SVG."));
    }, "image/png");
  });
}

export type Format = "svg" | "png" | "csv";

export async function save(saved: Saved, format: Format): Promise<void> {
  const name = `${slug(...saved.name)}.${format}`;
  if (format === "png") {
    download(name, await png(saved));
    return;
  }
  if (format === "svg") {
    download(name, new Blob([svgFile(saved).text], { type: "image/svg+xml" }));
    return;
  }
  const { columns, rows } = saved.sheet();
  download(name, new Blob([csv(columns, rows, [saved.title, saved.provenance])], { type: "text/csv" }));
}
