/** Small controls that several views use. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { type Format, save, type Saved } from "../export.tsx";
import type { Id } from "../payload.ts";
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
    options
      .filter((o) => o.heading === heading)
      .map((o) => (
        <option key={o.value} value={o.value} selected={o.value === value}>
          {o.text}
        </option>
      ));
  return (
    <label class="ix-choose">
      <span class={plain ? "ix-unseen" : ""}>{label}</span>
      <select
        value={value}
        onChange={(e) => {
          onChoose(e.currentTarget.value);
        }}
      >
        {headings.map((heading) =>
          heading ? (
            <optgroup key={heading} label={heading}>
              {of(heading)}
            </optgroup>
          ) : (
            of(heading)
          ),
        )}
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
        <button
          key={o.value}
          type="button"
          aria-pressed={o.value === value}
          onClick={() => {
            onChoose(o.value);
          }}
        >
          {o.text}
        </button>
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
      () => {
        store.spoken.value = `Saved as ${format.toUpperCase()}.`;
      },
      (error: unknown) => {
        setFailed(error instanceof Error ? error.message : String(error));
      },
    );
  };
  return (
    <div class="ix-save" role="group" aria-label={`Save: ${saved.title}`}>
      <span aria-hidden="true">Save</span>
      {FORMATS.map((format) => (
        <button
          key={format}
          type="button"
          data-save={format}
          onClick={() => {
            run(format);
          }}
          aria-label={`Save as ${format.toUpperCase()}`}
        >
          {format.toUpperCase()}
        </button>
      ))}
      {failed && (
        <span class="ix-failed" role="alert">
          {failed}
        </span>
      )}
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

/** A heading one below the page's own: of a page that holds nothing else, or of a report's section. */
export function Title({ children }: { children: ComponentChildren }) {
  const { alone } = useStore();
  return alone ? <h2 class="ix-title">{children}</h2> : <h3 class="ix-title">{children}</h3>;
}

export function Subtitle({ children }: { children: ComponentChildren }) {
  const { alone } = useStore();
  return alone ? <h3 class="ix-sub">{children}</h3> : <h4 class="ix-sub">{children}</h4>;
}

export function Panel({ view, title, hint, controls, saved, children }: PanelProps) {
  return (
    <div class="ix-panel" data-view={view} role="region" aria-label={title}>
      <div class="ix-panel-head">
        <Title>{title}</Title>
        {saved && <Save saved={saved} />}
      </div>
      {hint && <p class="ix-hint">{hint}</p>}
      {controls && <div class="ix-controls">{controls}</div>}
      {children}
    </div>
  );
}

/** A sentence with a command in it; the command is set apart. */
function Command({ text }: { text: string }) {
  const store = useStore();
  const found = /interp run .*?(?= (?:adds|keeps)\b|\.?$)/.exec(text);
  if (!found) return <p>{text}</p>;
  const [command] = found;
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(command);
      store.spoken.value = "Copied.";
    } catch {
      store.spoken.value = "Select the command to copy it.";
    }
  };
  return (
    <p>
      {text.slice(0, found.index)}
      <code>{command}</code>
      {text.slice(found.index + command.length)}{" "}
      <button
        type="button"
        class="ix-small"
        onClick={() => {
          void copy();
        }}
      >
        Copy
      </button>
    </p>
  );
}

/** A view without its numbers: why, and what adds them. */
const OFFERED = 12;

interface MissingProps {
  what: string;
  command: string | undefined;
  /** Prompts that have what is missing here. */
  elsewhere?: Id[];
}

export function Missing({ what, command, elsewhere = [] }: MissingProps) {
  const store = useStore();
  const { ids } = store.data.value;
  return (
    <div class="ix-missing">
      <p>{what}</p>
      {elsewhere.length > 0 && (
        <p class="ix-elsewhere">
          Kept for{" "}
          {elsewhere.slice(0, OFFERED).map((id) => (
            <button
              key={id}
              type="button"
              class="ix-small"
              onClick={() => {
                store.openPrompt(ids.indexOf(id));
              }}
            >
              #{id}
            </button>
          ))}
          {elsewhere.length > OFFERED && <span>and {elsewhere.length - OFFERED} more</span>}
        </p>
      )}
      {command && <Command text={command} />}
    </div>
  );
}

/** Said where the control is switched on and a view has none. */
export function NoControl({ what }: { what: string }) {
  const { controlName: name, missing } = useStore().data.value;
  return (
    <p class="ix-note" role="note">
      {name === "control" ? "The control" : `The control (${name})`} has no {what} in this file.
      {missing["control"] && ` ${missing["control"]}.`}
    </p>
  );
}
