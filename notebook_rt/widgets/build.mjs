// Bundles the widgets: the sources in this directory into `built/`, which Python reads and the repository
// contains, so that node is not needed to install or clone the package.
//
//     node notebook_rt/widgets/build.mjs            build (./do js)
//     node notebook_rt/widgets/build.mjs --check    fail if the repository's files differ from a new build
//     node notebook_rt/widgets/build.mjs --watch    build again whenever a source changes
import { build, version } from "esbuild";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, watch, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";

const HERE = dirname(fileURLToPath(import.meta.url));
const BUILT = join(HERE, "built");
const VENDORED = join(HERE, "vendor", "slickgrid.js.gz");
const WIDGETS = ["chart", "grid", "health", "notes", "presence", "queue", "statusbar"];

/** @type {import("esbuild").BuildOptions & { write: false }} */
const OPTIONS = {
  bundle: true, minify: true, write: false, format: "esm", target: "es2022", charset: "utf8", legalComments: "none", outdir: BUILT, logLevel: "warning",
};

/** The name of a library in the page: kernels with other versions of the package may share the page. */
const named = (/** @type {string} */ name, /** @type {string | Uint8Array} */ content) =>
  `${name}-${createHash("sha256").update(content).digest("hex").slice(0, 12)}`;

/** SlickGrid, gzipped: the bytes in the repository as long as their content equals a new build. */
async function slickgrid() {
  const folder = dirname(createRequire(import.meta.url).resolve("slickgrid/package.json"));
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const { outputFiles } = await build({
    ...OPTIONS, entryPoints: [join(HERE, "vendor", "entry.js")], alias: { sortablejs: join(HERE, "vendor", "sortable.js") },
    banner: { js: `/* SlickGrid ${version}, MIT, see LICENSE.slickgrid */` },
  });
  const fresh = Buffer.from(outputFiles[0].contents);
  const there = existsSync(VENDORED) ? readFileSync(VENDORED) : null;
  return there && gunzipSync(there).equals(fresh) ? there : gzipSync(fresh, { level: 9 });
}

/** All built files, by path. */
async function all() {
  const files = new Map([[VENDORED, await slickgrid()]]);
  const take = (/** @type {import("esbuild").OutputFile[]} */ made) => {
    for (const file of made) files.set(file.path, Buffer.from(file.contents));
  };
  take((await build({ ...OPTIONS, loader: { ".css": "empty", ".view.css": "text" }, entryPoints: [join(HERE, "gridview.js")] })).outputFiles);
  const define = {
    GRIDVIEW: JSON.stringify(named("gridview", /** @type {Buffer} */ (files.get(join(BUILT, "gridview.js"))))),
    SLICKGRID: JSON.stringify(named("slickgrid", /** @type {Buffer} */ (files.get(VENDORED)))),
  };
  take((await build({ ...OPTIONS, define, entryPoints: WIDGETS.map((name) => join(HERE, `${name}.js`)) })).outputFiles);
  return files;
}

/** The files of the repository that differ from the built ones. */
function stale(/** @type {Map<string, Buffer>} */ files) {
  const there = existsSync(BUILT) ? readdirSync(BUILT).map((name) => join(BUILT, name)) : [];
  const changed = [...files].filter(([path, content]) => !existsSync(path) || !readFileSync(path).equals(content));
  return { changed, left: there.filter((path) => !files.has(path)) };
}

async function write() {
  const files = await all();
  const { changed, left } = stale(files);
  mkdirSync(BUILT, { recursive: true });
  for (const [path, content] of changed) {
    writeFileSync(path, content);
    console.log(`${basename(path)}: ${content.length.toLocaleString("en")} bytes`);
  }
  for (const path of left) rmSync(path);
}

if (process.argv.includes("--check")) {
  const { changed, left } = stale(await all());
  const names = [...changed.map(([path]) => path), ...left].map((path) => basename(path));
  if (names.length) {
    console.error(`Not what esbuild ${version} makes of the sources: ${names.join(", ")}. Run ./do js and commit what it writes.`);
    process.exitCode = 1;
  }
} else if (process.argv.includes("--watch")) {
  await write();
  /** @type {NodeJS.Timeout | undefined} */
  let soon;
  watch(HERE, (_event, name) => {
    if (!name || !/\.(js|css)$/.test(name)) return;
    clearTimeout(soon);
    soon = setTimeout(() => write().catch(() => {}), 50); // esbuild has reported the error
  });
} else await write();
