#!/bin/sh
# Builds slickgrid.js.gz, the grid library that the wheel carries, from npm. Run by hand when the
# versions below change, and commit what comes out; neither users nor CI need npm for it.
set -eu
slickgrid=5.20.2
esbuild=0.28.2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --no-save --silent --prefix "$work" "slickgrid@$slickgrid" "esbuild@$esbuild"
cp "$here/entry.js" "$work/"
"$work/node_modules/.bin/esbuild" "$work/entry.js" --bundle --minify --format=esm --target=es2022 \
  --legal-comments=none --alias:sortablejs="$here/sortable.js" \
  --banner:js="/* SlickGrid $slickgrid, MIT, see LICENSE.slickgrid */" --outfile="$work/slickgrid.js"
gzip -9nc "$work/slickgrid.js" > "$here/slickgrid.js.gz"
cp "$work/node_modules/slickgrid/LICENSE" "$here/LICENSE.slickgrid" 2>/dev/null ||
  cp "$work"/node_modules/slickgrid/LICENSE* "$here/LICENSE.slickgrid"
ls -l "$here/slickgrid.js.gz"
