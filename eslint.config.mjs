import js from "@eslint/js";
import globals from "globals";

export default [
  { ignores: ["notebook_rt/widgets/built/", "notebooks/", "tests/local/", ".*/", "build/", "dist/"] },
  js.configs.recommended,
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
  {
    files: ["notebook_rt/widgets/**/*.js"],
    languageOptions: { globals: { ...globals.browser, GRIDVIEW: "readonly", SLICKGRID: "readonly" } },
  },
  { files: ["**/*.mjs", "tests/js/**"], languageOptions: { globals: globals.node } },
  {
    rules: {
      eqeqeq: "error",
      "no-restricted-properties": ["error", ...["innerHTML", "outerHTML", "insertAdjacentHTML"].map((property) => ({ property, message: "Names and values are hostile input: textContent." }))],
      "no-unused-vars": ["error", { argsIgnorePattern: "^_", caughtErrors: "none" }],
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all" }],
    },
  },
];
