// Health, queue and people in one line.
import { h, widget } from "./common.js";
import { health } from "./health.js";
import { queue } from "./queue.js";
import { presence } from "./presence.js";

export default widget((body, say) => {
  const bar = h("div", { class: "nrt-bar" });
  const panels = h("div", { class: "nrt-panels" });
  body.append(bar, panels);
  const parts = { health, queue, presence };
  const receivers = {};
  for (const [name, part] of Object.entries(parts)) {
    const box = h("div", { class: "nrt-part", "data-part": name });
    receivers[name] = part(box, say);
    bar.append(box);
    panels.append(box.querySelector(".nrt-panel"));
  }
  return (content) => {
    for (const [name, receive] of Object.entries(receivers)) {
      const box = bar.querySelector(`[data-part="${name}"]`);
      box.hidden = content[name] === null;
      if (content[name] !== null) receive(content[name]);
    }
  };
});
