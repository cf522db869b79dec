// Health, queue and people in one line.
import { h, widget } from "./common.js";
import { health } from "./health.js";
import { queue } from "./queue.js";
import { presence } from "./presence.js";
import "./statusbar.css";

/** @import { StateMessage } from "./protocol.js" */

export default widget((body, say) => {
  const bar = h("div", { class: "nrt-bar" });
  const panels = h("div", { class: "nrt-panels" });
  body.append(bar, panels);
  const parts = { health, queue, presence };
  const receivers = Object.entries(parts).map(([name, part]) => {
    const box = h("div", { class: "nrt-part", "data-part": name });
    const receive = /** @type {(state: any) => void} */ (part(box, say));
    bar.append(box);
    panels.append(...box.querySelectorAll(".nrt-panel"));
    return { name: /** @type {keyof typeof parts} */ (name), box, receive };
  });
  return (/** @type {StateMessage} */ content) => {
    for (const { name, box, receive } of receivers) {
      box.hidden = content[name] === null;
      if (content[name] !== null) receive(content[name]);
    }
  };
});
