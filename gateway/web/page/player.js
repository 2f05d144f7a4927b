/** A player of recordings: asciicast v2 on an xterm.js that nobody types into, fetched piece by piece as it is shown. */

import "./styles.js";
import { make } from "./dom.js";
import { sentence } from "./gateway.js";
import { onTheme, terminalColours } from "./theme.js";
import { Terminal as XTerm } from "./vendor/xterm.mjs";

const PIECE = 256 * 1024; // bytes at once
const PAUSE = 2_000; // milliseconds, of a longer one where pauses are cut
const SOON = 5; // milliseconds that are not waited for one by one
const SPEEDS = [0.5, 1, 2, 4, 8];
const MOST = { cols: 500, rows: 200 }; // of a screen

export class Player {
  #gateway;
  #path;
  #xterm;
  #screen = make("div", { class: "replay-screen" });
  #time = make("span", { class: "quiet size replay-time" });
  #word = make("p", { class: "quiet replay-word", role: "status" });
  #button = make("button", { type: "button", class: "small replay-play", onclick: () => this.#press() });
  #cut = make("input", { type: "checkbox", id: "replay-cut", checked: true });
  #speed = 1;
  #state = "paused"; // or playing, ended
  #run = 0; // the one that counts: each start is another
  #owed = 0; // milliseconds of the recording that were too few to wait for
  #wake = () => {}; // whoever waits looks again
  #ends = [];

  /** `gateway` gives the one who is signed in now; `about` is what the list says of the recording. */
  constructor(gateway, path, about) {
    this.#gateway = gateway;
    this.#path = path;
    this.#xterm = new XTerm({
      fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace',
      fontSize: 13,
      lineHeight: 1.15,
      minimumContrastRatio: 4.5,
      theme: terminalColours(),
      disableStdin: true,
    });
    this.element = make("div", { class: "replay" }, this.#toolbar(about), this.#screen, this.#word);
    this.#ends.push(onTheme(() => (this.#xterm.options.theme = terminalColours())));
    this.#length = about.seconds;
  }

  #length;

  #toolbar(about) {
    const speeds = SPEEDS.map((speed) => make("option", { value: String(speed), selected: speed === 1 }, `${speed} ×`));
    const choose = (event) => {
      this.#speed = Number(event.target.value);
      this.#wake();
    };
    return make(
      "div",
      { class: "toolbar", role: "group", "aria-label": `Recording of ${about.subject}` },
      this.#button,
      this.#time,
      make("label", { class: "replay-choice" }, "Speed", make("select", { class: "replay-speed", onchange: choose }, ...speeds)),
      make("label", { class: "replay-choice" }, this.#cut, "Cut pauses"),
    );
  }

  /** Show it and play; the element must be in the page and visible. */
  start() {
    this.#xterm.open(this.#screen);
    this.#screen.querySelector("textarea").setAttribute("aria-label", "What the session showed");
    this.#play();
    this.#button.focus();
  }

  #press() {
    if (this.#state === "ended") this.#play();
    else this.#change(this.#state === "playing" ? "paused" : "playing");
  }

  #change(state) {
    this.#state = state;
    this.element.dataset.state = state;
    this.#button.textContent = { playing: "Pause", paused: "Play", ended: "Play again" }[state];
    this.#wake();
  }

  /** From its beginning to its end, or until another run or the end of this player. */
  async #play() {
    const run = ++this.#run;
    this.#xterm.reset();
    this.#word.textContent = "";
    this.#owed = 0;
    this.#change("playing");
    let words = "The recording ends here: its session ran on, or the gateway was killed.";
    try {
      let last = 0;
      for await (const happening of this.#happenings()) {
        if (run !== this.#run) return;
        if (!Array.isArray(happening)) {
          this.#resize(happening.width, happening.height);
          continue;
        }
        const [when, code, text] = happening;
        await this.#pass(run, (when - last) * 1000);
        if (run !== this.#run) return;
        last = when;
        this.#tell(when);
        if (code === "o") await new Promise((resolve) => this.#xterm.write(String(text), resolve));
        else if (code === "r") this.#resize(...String(text).split("x"));
        else if (code === "m") words = sentence(String(text));
      }
    } catch (refusal) {
      if (run !== this.#run) return;
      words = refusal.message;
    }
    if (run !== this.#run) return;
    this.#word.textContent = words;
    this.#change("ended");
  }

  /** The header, then the events; a line that was cut off ends it. */
  async *#happenings() {
    const decoder = new TextDecoder();
    let rest = "";
    for (let at = 0, size = 1; at < size; ) {
      const part = await this.#gateway().part(this.#path, at, PIECE);
      at += part.bytes.length;
      size = part.bytes.length ? part.size : 0;
      const lines = (rest + decoder.decode(part.bytes, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        let happening;
        try {
          happening = JSON.parse(line);
        } catch {
          return;
        }
        yield happening;
      }
    }
  }

  /** Let so many milliseconds of the recording pass, at the speed of now, and none while it is paused. */
  async #pass(run, milliseconds) {
    let left = Math.max(Number(milliseconds) || 0, 0);
    if (this.#cut.checked) left = Math.min(left, PAUSE);
    left += this.#owed;
    while (run === this.#run && (this.#state === "paused" || left > SOON)) {
      const speed = this.#speed;
      const playing = this.#state === "playing";
      const began = performance.now();
      let timer = 0;
      await new Promise((wake) => {
        this.#wake = wake;
        if (playing) timer = setTimeout(wake, left / speed);
      });
      clearTimeout(timer);
      if (playing) left -= (performance.now() - began) * speed;
    }
    this.#owed = Math.max(left, 0);
  }

  #tell(when) {
    this.#time.textContent = `${clock(when)} / ${clock(Math.max(when, this.#length))}`;
  }

  #resize(cols, rows) {
    const within = (value, most, usual) => Math.min(Math.max(Math.trunc(Number(value)) || usual, 1), most);
    this.#xterm.resize(within(cols, MOST.cols, 80), within(rows, MOST.rows, 24));
  }

  dispose() {
    this.#run++;
    this.#wake();
    for (const end of this.#ends) end();
    this.#xterm.dispose();
    this.element.remove();
  }
}

/** Seconds as a clock shows them. */
export function clock(seconds) {
  const whole = Math.trunc(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  const hours = Math.trunc(whole / 3600);
  const minutes = Math.trunc(whole / 60) % 60;
  return hours ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}
