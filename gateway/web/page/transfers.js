/** The list of copies that run and of those that ended, each with its progress and a way to give it up. */

import { amount, make, the } from "./dom.js";

const SHOWN = 10; // bars a second

export class Transfer {
  #bar = make("progress", { max: 1 });
  #word = make("span", { class: "quiet" });
  #button;
  #moved = 0;
  #drawn = 0;
  #ended = false;
  total = 0; // bytes; 0 = not known

  constructor(name, giveUp) {
    this.#button = make("button", { type: "button", class: "small", onclick: () => (this.#ended ? this.#remove() : giveUp()) }, "Cancel");
    this.#bar.setAttribute("aria-label", name);
    this.#button.setAttribute("aria-label", `Cancel: ${name}`);
    this.#word.setAttribute("role", "status");
    this.element = make("div", { class: "transfer" }, make("span", { class: "transfer-name", title: name }, name), this.#bar, this.#word, this.#button);
    this.name = name;
    the("transfers").prepend(this.element);
    the("transfers").hidden = false;
  }

  /** So many bytes have moved so far. */
  moved(size) {
    this.#moved = size;
    const now = performance.now();
    if (now - this.#drawn < 1000 / SHOWN) return;
    this.#drawn = now;
    if (this.total > 0) this.#bar.value = Math.min(1, size / this.total);
    this.#bar.setAttribute("aria-valuetext", this.#far());
    this.#word.textContent = this.#far();
  }

  #far() {
    return this.total > 0 ? `${amount(this.#moved)} of ${amount(this.total)}` : amount(this.#moved);
  }

  done(word) {
    this.#bar.value = 1;
    this.#end(word, "done");
  }

  failed(word) {
    this.#bar.value = this.#bar.position > 0 ? this.#bar.position : 0;
    this.#end(word, "failed");
  }

  #end(word, state) {
    this.#ended = true;
    this.element.dataset.state = state;
    this.#word.textContent = word;
    this.#button.textContent = "Dismiss";
    this.#button.setAttribute("aria-label", `Dismiss: ${this.name}`);
  }

  #remove() {
    this.element.remove();
    the("transfers").hidden = the("transfers").childElementCount === 0;
  }
}
