// The part of the live grid that is in a widget's state: it requests SlickGrid and the view (gridview.js),
// each once per page, and passes control to them.
import { widget } from "./common.js";
import { library, loading, unloaded } from "./library.js";
import "./grid.css";
import "./past.css";

/** @import gridView from "./gridview.js" */

export default widget((body, say, model) => {
  const loaded = loading(body);
  /** @type {ReturnType<typeof gridView> | null} */
  let view = null;
  let closed = false;
  const ready = Promise.all([library(GRIDVIEW, model, say), library(SLICKGRID, model, say)])
    .then(([made, lib]) => {
      if (!closed) view = made.default(body, say, lib);
    })
    .catch((error) => closed || unloaded(body, model, say, error))
    .finally(loaded);
  return {
    // Messages keep their order: the first ones wait for the view together.
    receive: (content, buffers) => (view ? view.receive(content, buffers) : void ready.then(() => view?.receive(content, buffers))),
    close() {
      closed = true;
      loaded();
      view?.close();
    },
  };
});
