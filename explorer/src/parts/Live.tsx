/** A typed prompt, run by the model behind the page; its continuation streams in. */

import { useRef, useState } from "preact/hooks";
import { ask, type Asked, type Told } from "../live.ts";
import { visible } from "../format.ts";
import { useStore } from "../store.ts";

const numberOr = <T,>(text: FormDataEntryValue | null, otherwise: T): number | T =>
  typeof text === "string" && text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : otherwise;

function asked(form: HTMLFormElement): Asked {
  const data = new FormData(form);
  const prompt = data.get("prompt");
  return {
    prompt: typeof prompt === "string" ? prompt : "",
    new_tokens: numberOr(data.get("new_tokens"), 0),
    sample: data.get("sample") !== null,
    temperature: numberOr(data.get("temperature"), 1),
    top_k: numberOr(data.get("top_k"), null),
    top_p: numberOr(data.get("top_p"), null),
    seed: numberOr(data.get("seed"), 0),
  };
}

function inWords(told: Told): string {
  if (told.type === "queued") return told.ahead > 0 ? `${told.ahead} before yours.` : "Waiting.";
  if (told.type === "started") return "The model runs.";
  if (told.type === "error") return told.message;
  return "";
}

export function Live() {
  const store = useStore();
  const { live } = store.data.value;
  const stop = useRef<AbortController | null>(null);
  const [running, setRunning] = useState(false);
  const [status, setStatus] = useState("");
  const [text, setText] = useState("");
  if (!live) return null;
  const run = async (form: HTMLFormElement) => {
    const wanted = asked(form);
    if (!wanted.prompt || running) return;
    stop.current = new AbortController();
    setRunning(true);
    setText("");
    setStatus("Sent.");
    try {
      for await (const told of ask(live, wanted, stop.current.signal)) {
        if (told.type === "text") {
          setText(told.text);
          setStatus(`${told.tokens} ${told.tokens === 1 ? "token" : "tokens"}`);
        } else if (told.type === "payload") {
          store.add(told.payload);
          setStatus("");
          setText("");
          form.querySelector("textarea")?.form?.reset();
        } else setStatus(inWords(told));
      }
    } catch (error) {
      setStatus(
        stop.current.signal.aborted ? "Stopped." : error instanceof Error ? error.message : String(error),
      );
    } finally {
      setRunning(false);
    }
  };
  return (
    <form
      class="ix-live"
      aria-label="Run a prompt"
      onSubmit={(e) => {
        e.preventDefault();
        void run(e.currentTarget);
      }}
    >
      <textarea
        name="prompt"
        rows={1}
        required
        placeholder="Type a prompt for the model"
        aria-label="Prompt"
        dir="auto"
        onKeyDown={(e) => {
          if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
          e.preventDefault();
          e.currentTarget.form?.requestSubmit();
        }}
      />
      <label class="ix-choose">
        <span>new tokens</span>
        <input type="number" name="new_tokens" min={0} max={4096} step={1} defaultValue="20" />
      </label>
      {running ? (
        <button
          type="button"
          class="ix-small ix-live-stop"
          onClick={() => {
            stop.current?.abort();
          }}
        >
          Stop
        </button>
      ) : (
        <button type="submit" class="ix-small ix-go">
          Run
        </button>
      )}
      <details class="ix-sampling">
        <summary>Sampling</summary>
        <div>
          <label class="ix-choose">
            <input type="checkbox" name="sample" />
            <span>sample (else the most probable)</span>
          </label>
          <label class="ix-choose">
            <span>temperature</span>
            <input type="number" name="temperature" min={0.01} max={10} step="any" defaultValue="1" />
          </label>
          <label class="ix-choose">
            <span>top k</span>
            <input type="number" name="top_k" min={1} step={1} />
          </label>
          <label class="ix-choose">
            <span>top p</span>
            <input type="number" name="top_p" min={0.01} max={1} step="any" />
          </label>
          <label class="ix-choose">
            <span>seed</span>
            <input type="number" name="seed" min={0} step={1} defaultValue="0" />
          </label>
        </div>
      </details>
      <p class="ix-live-status" role="status">
        {text && <bdi class="ix-mono">{visible(text.replaceAll("\n", " ↵ "))}</bdi>} {status}
      </p>
    </form>
  );
}

/** What the run found, before its numbers. */
export function Story() {
  const store = useStore();
  const [first, ...rest] = store.data.value.story;
  // On a phone the finding would push its numbers off the screen.
  const [wide] = useState(() => innerWidth > 820);
  // A report tells its story itself, above the explorer.
  if (!first || (store.linked && !store.alone)) return null;
  return (
    <div role="region" aria-label="Finding">
      <details class="ix-story" open={wide}>
        <summary>
          <b>{first.title}</b>
        </summary>
        <p>{first.text}</p>
        {rest.length > 0 && (
          <details>
            <summary>{rest.length} more</summary>
            {rest.map((part, i) => (
              <p key={i}>
                <b>{part.title}</b> {part.text}
              </p>
            ))}
          </details>
        )}
      </details>
    </div>
  );
}
