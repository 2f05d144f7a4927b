/** The terminals in their tabs, by the keyboard as the ARIA Authoring Practices have tabs. */

import { make, the } from "./dom.js";

const list = the("tabs");
const panels = the("panels");
const open = []; // {terminal, tab, panel}, from left to right
let number = 0;

/** Show a terminal in a tab of its own. */
export function add(terminal) {
  number += 1;
  const id = `terminal-${number}`;
  const tab = make("button", { type: "button", class: "tab", role: "tab", id: `${id}-tab`, "aria-controls": id });
  const panel = make("div", { class: "tab-panel", role: "tabpanel", id, "aria-labelledby": `${id}-tab` }, terminal.element);
  const item = { terminal, tab, panel };
  tab.addEventListener("click", () => select(item));
  tab.addEventListener("keydown", (event) => pressed(event, item));
  open.push(item);
  list.append(tab);
  panels.append(panel);
  draw();
  select(item);
}

/** Whether a terminal runs in some tab. */
export const running = () => open.some(({ terminal }) => terminal.state !== "ended");

export function all() {
  return open.map(({ terminal }) => terminal);
}

/** A name that no other tab has. */
export function nameFor(name) {
  const taken = new Set(all().map((terminal) => terminal.name));
  for (let count = 1; ; count += 1) {
    const wanted = count === 1 ? name : `${name} ${count}`;
    if (!taken.has(wanted)) return wanted;
  }
}

export function close(terminal) {
  const at = open.findIndex((item) => item.terminal === terminal);
  if (at < 0) return;
  const [item] = open.splice(at, 1);
  const chosen = item.tab.ariaSelected === "true";
  terminal.dispose();
  item.tab.remove();
  item.panel.remove();
  if (chosen && open.length) select(open[Math.min(at, open.length - 1)]);
  draw();
}

/** What changed about their terminals shows. */
export function draw() {
  for (const { terminal, tab } of open) {
    tab.textContent = terminal.name;
    tab.dataset.state = terminal.state;
    tab.setAttribute("aria-label", terminal.state === "running" ? terminal.name : `${terminal.name}, ${terminal.state}`);
  }
  list.hidden = open.length === 0;
  the("empty").hidden = open.length > 0;
}

function select(chosen) {
  for (const item of open) {
    const mine = item === chosen;
    item.tab.ariaSelected = String(mine);
    item.tab.tabIndex = mine ? 0 : -1;
    item.panel.hidden = !mine;
  }
  chosen.terminal.show();
}

function pressed(event, item) {
  const at = open.indexOf(item);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: open.length - 1 }[event.key];
  if (event.key === "Delete") close(item.terminal);
  else if (to === undefined) return;
  else {
    const next = open[(to + open.length) % open.length];
    select(next);
    next.tab.focus();
  }
  event.preventDefault();
}
