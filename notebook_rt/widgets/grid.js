// The live grid, what of it is in a widget's state: it asks for SlickGrid and for the view
// (gridview.js), each once a page, and hands over to them.
import { h, widget } from "./common.js";
import { library, unloaded } from "./library.js";

const VIEW = "gridview"; // grid.py puts the version behind it

export default widget((body, say, model) => {
  const wait = h("p", { class: "nrt-loading", text: "Loading…" });
  body.append(wait);
  let view = null;
  let closed = false;
  const ready = Promise.all([library(VIEW, model, say), library("slickgrid-5.20.2", model, say)]).then(
    ([made, lib]) => {
      if (closed) return;
      wait.remove();
      view = made.default(body, say, lib);
    },
    (error) => closed || unloaded(body, model, say, error),
  );
  return {
    // Messages keep their order: the first ones wait for the view together.
    receive: (content, buffers) => (view ? view.receive(content, buffers) : void ready.then(() => view?.receive(content, buffers))),
    close() {
      closed = true;
      view?.close();
    },
  };
});
