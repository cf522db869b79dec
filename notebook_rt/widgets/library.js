// A big library, once a page: the first widget that needs it asks its kernel for the gzipped
// module and keeps it for all others, of whatever kernel. Never part of a widget's state.
const PAGE = Symbol.for("notebook_rt@1");

// What widgets of one page share: libraries by name, column widths.
export const page = () => (globalThis[PAGE] ??= { libraries: {}, widths: {} });

export function library(name, model, say) {
  const entry = (page().libraries[name] ??= {});
  entry.ready ??= new Promise((resolve) => (entry.resolve = resolve));
  if (entry.loading) return entry.ready;
  const receive = (content, buffers) => {
    if (content.t !== "library" || content.name !== name || entry.loading) return;
    entry.loading = true;
    const plain = new Blob([buffers[0]]).stream().pipeThrough(new DecompressionStream("gzip"));
    entry.resolve(
      new Response(plain).text().then((text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })))),
    );
  };
  model.on("msg:custom", receive);
  const ask = () => {
    if (entry.loading || Date.now() - (entry.asked ?? 0) < 8000) return;
    entry.asked = Date.now();
    say({ t: "library", name });
  };
  const timer = setInterval(ask, 1000);
  setTimeout(ask);
  entry.ready.then(() => {
    clearInterval(timer);
    model.off("msg:custom", receive);
  });
  return entry.ready;
}
