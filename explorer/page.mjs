// Writes pages with made-up data to look at, into out/: `npm run page`, then open out/usual.html.
import { build } from "esbuild";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "out");
await mkdir(out, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: ["fixtures/make.ts"],
  outfile: join(out, "make.mjs"),
  bundle: true,
  format: "esm",
  platform: "node",
  logLevel: "warning",
});
const { make } = await import(pathToFileURL(join(out, "make.mjs")).href);
const bundle = join(here, "..", "interp", "render");
const [js, css] = await Promise.all(
  ["explorer.js", "explorer.css"].map((name) => readFile(join(bundle, name), "utf8")),
);
const CSP = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:";
const safe = (payload) =>
  JSON.stringify(payload).replace(
    /[<>&\u2028\u2029]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"),
  );
const PAGES = {
  usual: {},
  hostile: { hostile: true, prompts: 12, tokens: 40 },
  bare: { bare: true, prompts: 3 },
  one: { prompts: 1, tokens: 1, blocks: 1, heads: 1, measures: 1, patterns: 1 },
  long: { prompts: 2, tokens: 4096, blocks: 12, measures: 6, heads: 2, patterns: 0 },
  many: { prompts: 10000, tokens: 6, blocks: 4, measures: 3, heads: 2, patterns: 1 },
};
for (const [name, wanted] of Object.entries(PAGES)) {
  const page = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" content="${CSP}"><title>explorer</title><style>${css}</style></head>
<body class="ix-page"><div id="interp-explorer"></div><script type="application/json" id="interp-explorer-data">${safe(make(wanted))}</script><script>${js}</script></body></html>`;
  await writeFile(join(out, `${name}.html`), page);
  console.log(`out/${name}.html ${(page.length / 1e6).toFixed(1)} MB`);
}
