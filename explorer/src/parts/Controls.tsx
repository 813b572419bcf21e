/** Small controls that several views use. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { type Format, save, type Saved } from "../export.tsx";
import { useStore } from "../store.ts";

interface Choices {
  label: string;
  value: string;
  /** Value and text; a group of choices has a heading. */
  options: { value: string; text: string; heading?: string | undefined }[];
  onChoose: (value: string) => void;
  plain?: boolean;
}

export function Choose({ label, value, options, onChoose, plain = false }: Choices) {
  const headings = [...new Set(options.map((o) => o.heading))];
  const of = (heading: string | undefined) =>
    options.filter((o) => o.heading === heading).map((o) => <option key={o.value} value={o.value} selected={o.value === value}>{o.text}</option>);
  return (
    <label class="ix-choose">
      <span class={plain ? "ix-unseen" : ""}>{label}</span>
      <select value={value} onChange={(e) => { onChoose(e.currentTarget.value); }}>
        {headings.map((heading) => (heading ? <optgroup key={heading} label={heading}>{of(heading)}</optgroup> : of(heading)))}
      </select>
    </label>
  );
}

interface Segment<T extends string> {
  label: string;
  value: T;
  options: readonly { value: T; text: string }[];
  onChoose: (value: T) => void;
}

/** A few choices side by side. */
export function Segments<T extends string>({ label, value, options, onChoose }: Segment<T>) {
  return (
    <div class="ix-segments" role="group" aria-label={label}>
      {options.map((o) => (
        <button key={o.value} type="button" aria-pressed={o.value === value} onClick={() => { onChoose(o.value); }}>{o.text}</button>
      ))}
    </div>
  );
}

const FORMATS: Format[] = ["svg", "png", "csv"];

export function Save({ saved }: { saved: Saved }) {
  const store = useStore();
  const [failed, setFailed] = useState("");
  const run = (format: Format) => {
    setFailed("");
    save(saved, format).then(
      () => { store.spoken.value = `Saved as ${format.toUpperCase()}.`; },
      (error: unknown) => { setFailed(error instanceof Error ? error.message : String(error)); },
    );
  };
  return (
    <div class="ix-save" role="group" aria-label={`Save: ${saved.title}`}>
      <span aria-hidden="true">Save</span>
      {FORMATS.map((format) => (
        <button key={format} type="button" data-save={format} onClick={() => { run(format); }} aria-label={`Save as ${format.toUpperCase()}`}>
          {format.toUpperCase()}
        </button>
      ))}
      {failed && <span class="ix-failed" role="alert">{failed}</span>}
    </div>
  );
}

interface PanelProps {
  view: string;
  title: string;
  /** How to read the figure, in a sentence or two. */
  hint?: ComponentChildren;
  controls?: ComponentChildren;
  saved?: Saved | null;
  children: ComponentChildren;
}

export function Panel({ view, title, hint, controls, saved, children }: PanelProps) {
  return (
    <div class="ix-panel" data-view={view} role="region" aria-label={title}>
      <div class="ix-panel-head">
        <h3 class="ix-title">{title}</h3>
        {saved && <Save saved={saved} />}
      </div>
      {hint && <p class="ix-hint">{hint}</p>}
      {controls && <div class="ix-controls">{controls}</div>}
      {children}
    </div>
  );
}

/** A view without its numbers: why, and what adds them. */
export function Missing({ what, command }: { what: string; command: string | undefined }) {
  const store = useStore();
  const copy = async (text: string) => {
    try {
      await navigator.clipboard.writeText(text);
      store.spoken.value = "Copied.";
    } catch {
      store.spoken.value = "Select the command to copy it.";
    }
  };
  return (
    <div class="ix-missing">
      <p>{what}</p>
      {command && (
        <p>
          This adds it: <code>{command}</code>{" "}
          <button type="button" class="ix-small" onClick={() => { void copy(command); }}>Copy</button>
        </p>
      )}
    </div>
  );
}

/** Said where the control is switched on and a view has none. */
export function NoControl({ what }: { what: string }) {
  const name = useStore().data.value.controlName;
  return <p class="ix-note" role="note">{name === "control" ? "The control" : `The control (${name})`} has no {what} in this file.</p>;
}
