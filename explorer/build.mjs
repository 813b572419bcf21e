// Bundles src/ into the two files that Python puts into its pages. The output depends on the
// sources and on the pinned versions alone, so that a test can compare it byte by byte.
// `node build.mjs --out FOLDER` writes elsewhere.
import { build } from "esbuild";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const asked = process.argv.indexOf("--out");
const out = asked > 0 ? process.argv[asked + 1] : join(here, "..", "interp", "render");
const LIMIT = 250_000;
const LIBRARIES = [
  "preact",
  "@preact/signals",
  "@preact/signals-core",
  "@tanstack/virtual-core",
  "d3-array",
  "d3-scale",
  "d3-shape",
  "d3-path",
  "d3-interpolate",
  "d3-color",
  "d3-format",
  "d3-time",
  "d3-time-format",
  "internmap",
  "fflate",
];

/** The licences of the libraries in the bundle ask that notice and terms go with every copy. */
async function notice() {
  const terms = new Map();
  for (const name of LIBRARIES) {
    const folder = join(here, "node_modules", name);
    const { version } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const text = await readFile(join(folder, "LICENSE"), "utf8");
    const owner = /^\s*Copyright.*$/m.exec(text)?.[0].trim();
    const body = text.slice(text.indexOf("Permission")).replace(/\s+/g, " ").trim();
    if (!owner || !body.startsWith("Permission")) throw new Error(`${name}: its licence could not be read`);
    terms.set(body, [...(terms.get(body) ?? []), `${name} ${version}, ${owner}`]);
  }
  const parts = [...terms].map(([body, names]) => `${names.join("\n")}\n${body}`);
  return `/*! interp explorer, built from explorer/ with:\n${parts.join("\n\n")} */`;
}

await mkdir(out, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  metafile: true,
  entryPoints: { explorer: "src/main.tsx" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022"],
  charset: "utf8",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  banner: { js: await notice() },
  logLevel: "warning",
});
for (const input of Object.keys(metafile.inputs)) {
  const name = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(input)?.[1];
  if (name && !LIBRARIES.includes(name)) throw new Error(`${name} is in the bundle without its licence`);
}
await build({
  absWorkingDir: here,
  entryPoints: { explorer: "src/explorer.css" },
  outdir: out,
  minify: true,
  charset: "utf8",
  logLevel: "warning",
});
for (const name of ["explorer.js", "explorer.css"]) {
  const path = join(out, name);
  const text = await readFile(path, "utf8");
  if (text.includes("</script") || text.includes("<!--")) throw new Error(`${name} would end its element`);
  await writeFile(path, text);
  const { size } = await stat(path);
  console.log(`${name} ${size} bytes`);
  if (size > LIMIT) throw new Error(`${name} has ${size} bytes; the limit is ${LIMIT}`);
}
