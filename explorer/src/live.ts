/** Asks the server behind a live page; the answer is one JSON object a line, as they come. */

import type { Payload } from "./payload.ts";

export interface Asked {
  prompt: string;
  new_tokens: number;
  sample: boolean;
  temperature: number;
  top_k: number | null;
  top_p: number | null;
  seed: number;
}

export type Told =
  | { type: "queued"; ahead: number }
  | { type: "started" }
  | { type: "text"; text: string; tokens: number }
  | { type: "payload"; payload: Payload }
  | { type: "error"; message: string };

/** The objects of a stream of lines, however it was cut on its way. */
export async function* objects(stream: ReadableStream<Uint8Array>): AsyncGenerator<Told> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let kept = "";
  for (;;) {
    const { done, value } = await reader.read();
    kept += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = kept.split("\n");
    kept = lines.pop() ?? "";
    for (const line of lines) if (line.trim()) yield JSON.parse(line) as Told;
    if (!done) continue;
    if (kept.trim()) yield JSON.parse(kept) as Told;
    return;
  }
}

/** The reason that a refusal gives, or its number. */
async function refusal(response: Response): Promise<string> {
  try {
    const { message } = (await response.json()) as { message?: string };
    if (message) return message;
  } catch {
    // No JSON: the status has to do.
  }
  return `The server answered ${response.status} ${response.statusText}.`;
}

export async function* ask(
  live: { url: string; token: string },
  asked: Asked,
  signal: AbortSignal,
): AsyncGenerator<Told> {
  let response: Response;
  try {
    response = await fetch(`${live.url}run`, {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json", "X-Interp-Token": live.token },
      body: JSON.stringify(asked),
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The server does not answer; is interp explore still running?", { cause: error });
  }
  if (!response.ok || !response.body) throw new Error(await refusal(response));
  yield* objects(response.body);
}
