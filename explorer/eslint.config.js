import js from "@eslint/js";
import ts from "typescript-eslint";

export default ts.config(
  { ignores: ["node_modules/", "out/"] },
  js.configs.recommended,
  {
    files: ["**/*.ts", "**/*.tsx"],
    extends: [...ts.configs.strictTypeChecked],
    languageOptions: { parserOptions: { project: "./tsconfig.json" } },
    rules: {
      // Indices are checked by the compiler (noUncheckedIndexedAccess); numbers in texts are the point.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-non-null-assertion": "error",
      // Node's runner collects what `test` returns.
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", name: ["test"], package: "node:test" }] },
      ],
      // Every `?? 0` that an index asks for counts as a branch here.
      complexity: ["error", 16],
      "no-eval": "error",
      "no-new-func": "error",
      // Data are set as text, never as HTML.
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "Set data as text." },
        { property: "outerHTML", message: "Set data as text." },
        { property: "insertAdjacentHTML", message: "Set data as text." },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: "Set data as text." },
      ],
    },
  },
  {
    files: ["**/*.mjs", "**/*.js"],
    languageOptions: { globals: { process: "readonly", console: "readonly", URL: "readonly" } },
  },
);
