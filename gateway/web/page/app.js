/** The page: signing in and out, the list of instances, and what becomes of a click. */

import { make, the } from "./dom.js";
import { dropTarget, openFiles } from "./files.js";
import { clock, Gateway, Refusal } from "./gateway.js";
import { openRecordings } from "./recordings.js";
import * as tabs from "./tabs.js";
import { Terminal } from "./terminal.js";

const REFRESH = 5_000; // milliseconds between looks at the list
const SOON = 5 * 60_000; // milliseconds before a token's end that it is told
const DAY = 24 * 3600_000; // a timer of a browser has at most 24 days

let gateway = null; // of the one who is signed in
let known = ""; // the list as it is drawn
let refreshing = 0; // timers
let expiring = 0;

// Signing in and out.

the("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter ?? event.target.querySelector("button");
  button.disabled = true;
  complain("");
  try {
    const coming = new Gateway(the("token").value);
    const instances = await coming.instances();
    the("token").value = "";
    gateway = coming;
    enter(instances);
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) throw refusal;
    complain(refusal.message);
    the("token").focus();
    the("token").select();
  } finally {
    button.disabled = false;
  }
});

function complain(words) {
  the("sign-in-problem").textContent = words;
  the("token").ariaInvalid = String(words !== "");
}

function enter(instances) {
  the("sign-in").hidden = true;
  the("house").hidden = false;
  the("sign-out").hidden = false;
  the("list-toggle").hidden = false;
  draw(instances);
  state("");
  watchExpiry();
  refreshing = setTimeout(refresh, REFRESH);
  (document.querySelector(".instance button") ?? the("user")).focus();
}

/** Back to the sign-in. Terminals stay where they are until the reader himself signs out. */
function leave(words) {
  gateway = null;
  known = "";
  clearTimeout(refreshing);
  clearTimeout(expiring);
  the("files").close();
  the("recordings").close();
  the("sign-in").hidden = false;
  the("house").hidden = true;
  the("sign-out").hidden = true;
  the("list-toggle").hidden = true;
  state("");
  complain(words);
  the("token").focus();
}

the("sign-out").addEventListener("click", () => {
  if (tabs.running() && !confirm("Sign out and end every terminal?")) return;
  tabs.all().forEach(tabs.close);
  leave("");
});

// The token's end.

function watchExpiry() {
  clearTimeout(expiring);
  const notice = the("expiry");
  const left = gateway.expires - Date.now();
  notice.hidden = left > SOON;
  if (left <= 0) {
    notice.replaceChildren(
      `Your token expired at ${clock(gateway.expires)}. Its terminals end with it; for new ones, `,
      make("button", { type: "button", class: "small", onclick: () => leave("") }, "sign in again"),
    );
    return;
  }
  if (left <= SOON) notice.textContent = `Your token expires at ${clock(gateway.expires)}.`;
  expiring = setTimeout(watchExpiry, Math.min(left > SOON ? left - SOON : left, DAY));
}

// The list of instances.

async function refresh() {
  const asked = gateway;
  try {
    const instances = document.hidden ? null : await asked.instances();
    if (gateway !== asked) return;
    if (instances) draw(instances);
    state("");
  } catch (refusal) {
    if (gateway !== asked) return;
    state(refusal.message);
  }
  refreshing = setTimeout(refresh, REFRESH);
}

function state(words) {
  the("gateway-state").textContent = words;
}

function draw(instances) {
  const now = JSON.stringify(instances);
  if (now === known) return; // nothing moves under a reader's finger
  known = now;
  const focused = document.activeElement?.id;
  the("instance-list").replaceChildren(...instances.map(row));
  the("instance-none").hidden = instances.length > 0;
  if (focused) the(focused)?.focus();
}

function row(instance) {
  const named = { ...instance, name: instance.name || instance.id };
  const id = `instance-${instance.id}`;
  const element = make(
    "li",
    { class: "instance", "data-running": String(instance.state === "Running") },
    make("div", { class: "instance-name", title: instance.id }, named.name),
    make("div", { class: "instance-state" }, instance.state),
    make("div", { class: "quiet instance-image" }, instance.image),
    make(
      "div",
      { class: "instance-actions" },
      make("button", { type: "button", id: `${id}-terminal`, "aria-label": `Terminal in ${named.name}`, onclick: () => enterInstance(named) }, "Terminal"),
      make("button", { type: "button", id: `${id}-files`, "aria-label": `Files of ${named.name}`, onclick: () => files(named, user()) }, "Files…"),
      ...recordings(named, id),
    ),
  );
  dropTarget(element, (sources) => files(named, user(), sources));
  return element;
}

/** For those alone who may see them. */
function recordings(instance, id) {
  if (!instance.recordings) return [];
  const open = () => openRecordings({ gateway: () => gateway, instance });
  return [make("button", { type: "button", id: `${id}-recordings`, "aria-label": `Recordings of ${instance.name}`, onclick: open }, "Recordings…")];
}

const user = () => the("user").value.trim();

/** `back` is called when the dialog is closed; what had the focus has it again by then. */
function files(instance, as, sources, back = () => {}) {
  openFiles({ gateway: () => gateway, instance, user: as, back }, sources);
}

function enterInstance(instance) {
  const as = user();
  const terminal = new Terminal(() => gateway, instance, as, tabs.nameFor(instance.name), {
    changed: () => tabs.draw(),
    close: () => tabs.close(terminal),
    files: (sources) => files(instance, as, sources, () => terminal.focus()),
  });
  dropTarget(terminal.element, terminal.told.files);
  the("list-toggle").ariaExpanded = "false"; // in a narrow page it would stand in the way
  tabs.add(terminal);
  terminal.start();
}

the("list-toggle").addEventListener("click", ({ target }) => {
  target.ariaExpanded = String(target.ariaExpanded !== "true");
});

// A page that is closed by mistake takes its terminals with it.
addEventListener("beforeunload", (event) => {
  if (tabs.running()) event.preventDefault();
});

the("token").focus();
