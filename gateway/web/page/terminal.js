/** One terminal: xterm.js on one side, a login shell by vmgate.v1 on the other, and what is said when it ends. */

import "./styles.js";
import { make } from "./dom.js";
import { sentence } from "./gateway.js";
import { Socket, STDIN } from "./socket.js";
import { onTheme, terminalColours } from "./theme.js";
import { FitAddon } from "./vendor/addon-fit.mjs";
import { Terminal as XTerm } from "./vendor/xterm.mjs";

const WINDOW = 512 * 1024; // bytes that may be on their way to the screen
const FRAME = 32 * 1024;
const WAIT = 60; // seconds for a guest that boots
const SCROLLBACK = 5000; // lines
const encoder = new TextEncoder();

export class Terminal {
  #gateway;
  #socket = null;
  #typed = Promise.resolve(); // keys and pastes, one behind the other
  #xterm;
  #fit = new FitAddon();
  #screen = make("div", { class: "screen" });
  #size = make("span", { class: "quiet size" });
  #word = make("p", { class: "word" });
  #again = make("button", { type: "button", class: "again", hidden: true, onclick: () => this.start() }, "Start again");
  #ends = []; // what to undo at the end

  /** `gateway` gives the one who is signed in now; `told` hears of `changed`, `files(what is dropped, or nothing)` and `close`. */
  constructor(gateway, instance, user, name, told) {
    this.#gateway = gateway;
    this.instance = instance;
    this.user = user;
    this.name = name;
    this.told = told;
    this.state = "connecting"; // or running, ended
    this.#xterm = new XTerm({
      fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace',
      fontSize: 14,
      lineHeight: 1.15, // or underscores are cut off in some fonts
      scrollback: SCROLLBACK,
      minimumContrastRatio: 4.5, // WCAG 2.2, 1.4.3
      theme: terminalColours(),
      cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
      macOptionIsMeta: true,
      rightClickSelectsWord: false,
    });
    this.#xterm.loadAddon(this.#fit);
    this.#xterm.attachCustomKeyEventHandler((event) => this.#shortcut(event));
    this.#xterm.onData((text) => this.#type(encoder.encode(text)));
    this.#xterm.onBinary((text) => this.#type(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    this.#xterm.onResize(({ rows, cols }) => this.#resized(rows, cols));
    this.element = make("div", { class: "panel" }, this.#toolbar(), this.#screen, this.#foot());
    this.#ends.push(onTheme(() => (this.#xterm.options.theme = terminalColours())));
  }

  #toolbar() {
    const button = (label, onclick, title = "") => make("button", { type: "button", class: "small", onclick, title }, label);
    return make(
      "div",
      { class: "toolbar", role: "group", "aria-label": `Terminal ${this.name}` },
      make("strong", { class: "panel-name" }, this.user ? `${this.user}@${this.instance.name}` : this.instance.name),
      this.#size,
      button("Copy", () => this.#copy(), "Copy what is selected (Ctrl+Shift+C)"),
      button("Paste", () => this.#paste(), "Paste (Ctrl+Shift+V)"),
      button("Files…", () => this.told.files()),
      button("Close", () => this.told.close()),
    );
  }

  #foot() {
    this.foot = make("div", { class: "foot", role: "status", hidden: true }, this.#word, this.#again);
    return this.foot;
  }

  /** Show it; the element must be in the page and visible. */
  show() {
    if (!this.#xterm.element) {
      this.#xterm.open(this.#screen);
      this.#screen.querySelector("textarea").setAttribute("aria-label", `Terminal ${this.name}`);
      const observer = new ResizeObserver(() => this.#fitted());
      observer.observe(this.#screen);
      this.#ends.push(() => observer.disconnect());
    }
    this.#fitted();
    this.#xterm.focus();
  }

  focus() {
    this.#xterm.focus();
  }

  #fitted() {
    if (this.#screen.clientWidth > 0) this.#fit.fit();
    this.#size.textContent = `${this.#xterm.cols} × ${this.#xterm.rows}`;
  }

  /** A new session in the same place; what stood on the screen stays above. */
  start() {
    this.#socket?.close();
    this.#say("");
    this.#change("connecting");
    this.#say(`Connecting to ${this.instance.name} …`);
    const { rows, cols } = this.#xterm;
    const socket = new Socket(
      this.#gateway(),
      `instances/${encodeURIComponent(this.instance.id)}/exec`,
      {
        type: "exec",
        terminal: { rows, cols, term: "xterm-256color" },
        env: { COLORTERM: "truecolor" },
        user: this.user,
        wait: WAIT,
        frame: FRAME,
        window: WINDOW,
      },
      {
        message: (message) => message.type === "started" && this.#started(),
        bytes: (_, bytes) => this.#xterm.write(bytes, () => socket.took(bytes.length)),
        ended: (end) => socket === this.#socket && this.#ended(end),
      },
    );
    this.#socket = socket;
    this.#typed = Promise.resolve();
  }

  #started() {
    this.#change("running");
    this.#say("");
    this.#resized(this.#xterm.rows, this.#xterm.cols); // it may have changed on the way
    this.#xterm.focus();
  }

  #ended(end) {
    const away = this.#xterm.buffer.active.type === "alternate" ? "\x1b[?1049l" : "";
    this.#xterm.write(`${away}\x1b[?25h\x1b[?1000l\x1b[?2004l\x1b[0m\r\n`); // what a dead program left on
    this.#change("ended");
    this.#say(words(end, this.instance.name), end.outcome !== "completed");
    this.#again.hidden = false;
  }

  #change(state) {
    this.state = state;
    this.element.dataset.state = state;
    this.told.changed();
  }

  #say(text, bad = false) {
    this.#word.textContent = text;
    this.foot.hidden = text === "";
    this.foot.classList.toggle("bad", bad);
    this.#again.hidden = true;
  }

  #type(bytes) {
    const socket = this.#socket;
    this.#typed = this.#typed.then(() => socket?.sendBytes(STDIN, bytes));
  }

  #resized(rows, cols) {
    this.#size.textContent = `${cols} × ${rows}`;
    this.#socket?.send({ type: "resize", rows, cols });
  }

  /** Copy and paste as terminals have it, since Ctrl+C and Ctrl+V are the program's. False = not a key for the program. */
  #shortcut(event) {
    const copy = (event.ctrlKey && event.shiftKey && event.code === "KeyC") || (event.ctrlKey && event.code === "Insert");
    if (copy) {
      event.preventDefault();
      if (event.type === "keydown") this.#copy();
      return false;
    }
    // The browser makes a paste event of these two by itself, which xterm.js takes.
    return !((event.ctrlKey && event.shiftKey && event.code === "KeyV") || (event.shiftKey && event.code === "Insert"));
  }

  async #copy() {
    const text = this.#xterm.getSelection();
    if (text) {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        document.execCommand("copy"); // pages without TLS have no clipboard but this; xterm.js answers its event
      }
    }
    this.#xterm.focus();
  }

  async #paste() {
    try {
      this.#xterm.paste(await navigator.clipboard.readText());
    } catch {
      this.#say("This browser lets the page read no clipboard here: paste with Ctrl+Shift+V or Shift+Insert.");
    }
    this.#xterm.focus();
  }

  /** The end of the tab: the session is hung up. */
  dispose() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    for (const end of this.#ends) end();
    this.#xterm.dispose();
    this.element.remove();
  }
}

/** What is told of an end, in a sentence. */
function words(end, name) {
  if (end.error) {
    const lead = { guest_lost: `${name} is gone. `, agent_unreachable: `${name} cannot be reached. ` }[end.error.code] ?? "";
    return lead + sentence(end.error.message);
  }
  if (end.outcome === "timed_out") return "The shell took longer than it was given.";
  if (end.signal) return `The shell was ended by signal ${end.signal}.`;
  return end.code ? `The shell ended with exit code ${end.code}.` : "The shell ended.";
}
