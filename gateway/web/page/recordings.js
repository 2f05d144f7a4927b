/** The dialog for recordings of one instance: the list of them, and one that is played. */

import { amount, make, the } from "./dom.js";
import { clock as moment, sentence } from "./gateway.js";
import { clock, Player } from "./player.js";

let context = null; // {gateway(), instance}
let player = null;
let more = ""; // the file behind which the list goes on

const address = () => `instances/${encodeURIComponent(context.instance.id)}/recordings`;

/** Open it for an instance. */
export function openRecordings(where) {
  context = where;
  the("recordings-title").textContent = `Recordings of ${where.instance.name}`;
  the("recordings-list").replaceChildren();
  list();
  if (!the("recordings").open) the("recordings").showModal();
  load("");
}

async function load(behind) {
  const asked = context;
  const button = the("recordings-more");
  button.hidden = true;
  the("recordings-state").textContent = "Looking …";
  try {
    const found = await context.gateway().recordings(address(), behind);
    if (asked !== context) return;
    const first = the("recordings-list").childElementCount === 0;
    the("recordings-list").append(...found.recordings.map(row));
    more = found.more;
    button.hidden = more === "";
    the("recordings-state").textContent = first && !found.recordings.length && !more ? "Nothing was recorded there." : "";
  } catch (refusal) {
    if (asked === context) the("recordings-state").textContent = refusal.message;
  }
}

function row(about) {
  const began = moment(about.began);
  return make(
    "li",
    { class: "recording" },
    make("div", { class: "recording-who" }, about.subject || "unknown"),
    make("div", { class: "quiet" }, `${began}, ${clock(about.seconds)}, ${amount(about.bytes)}`),
    make("div", { class: "quiet" }, about.end ? sentence(about.end) : "No end was recorded."),
    make("button", { type: "button", class: "small", "aria-label": `Play ${about.subject}, ${began}`, onclick: () => play(about) }, "Play"),
  );
}

function play(about) {
  player?.dispose();
  player = new Player(() => context.gateway(), `${address()}/${encodeURIComponent(about.session)}`, about);
  the("recordings-shelf").hidden = true;
  the("recordings-player").hidden = false;
  the("recordings-player").append(player.element);
  player.start();
}

function list() {
  player?.dispose();
  player = null;
  the("recordings-shelf").hidden = false;
  the("recordings-player").hidden = true;
}

the("recordings-more").addEventListener("click", () => load(more));
the("recordings-back").addEventListener("click", () => {
  list();
  the("recordings-list").querySelector("button")?.focus();
});
the("recordings").addEventListener("close", list);
