/**
 * One WebSocket that speaks vmgate.v1, as docs/protocol.md has it: its first message, both credits, and
 * one end. Who uses it is told of `accepted`, every other message, bytes, and at last `ended`, once.
 */

import { Refusal } from "./gateway.js";

export const STDIN = 0;
export const CONTENT = 3;
const ENTRY_COST = 256; // bytes that an entry counts beside its text
const OPEN_TIME = 30_000; // milliseconds until the connection stands

const encoder = new TextEncoder();

export class Socket {
  #socket;
  #told; // what the user of this wants to hear: {message, bytes, ended}
  #last = null; // exit or report
  #refused = null;
  #opened = false;
  #credit = 0;
  #frame = 1024;
  #room = []; // those who wait for credit
  #window;
  #taken = 0; // bytes that were taken and not given back yet

  /** `first` is the first message; it has to state a `window`. */
  constructor(gateway, path, first, told) {
    this.#told = told;
    this.#window = first.window;
    const url = new URL(path, document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.#socket = new WebSocket(url, gateway.protocols);
    this.#socket.binaryType = "arraybuffer";
    const late = setTimeout(() => this.close(), OPEN_TIME);
    this.#socket.onopen = () => {
      clearTimeout(late);
      this.#opened = true;
      this.send(first);
    };
    this.#socket.onmessage = ({ data }) => this.#received(data);
    this.#socket.onclose = async ({ code }) => {
      clearTimeout(late);
      if (!this.#opened) this.#refused = await gateway.whyRefused(path);
      this.#wake();
      told.ended(this.#last ?? lost(code, this.#refused));
    };
  }

  get open() {
    return this.#socket.readyState === WebSocket.OPEN && this.#last === null;
  }

  /** A message that needs no credit. */
  send(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /** An `entry`, once there is credit. Resolves to false when the socket is gone. */
  async sendEntry(message) {
    if (!(await this.#credited())) return false;
    const text = JSON.stringify(message);
    this.#credit -= encoder.encode(text).length + ENTRY_COST;
    this.#socket.send(text);
    return true;
  }

  /** Bytes of a stream, in as many messages as they need, as credit comes. Resolves to false when the socket is gone. */
  async sendBytes(stream, bytes) {
    for (let sent = 0; sent < bytes.length; ) {
      if (!(await this.#credited())) return false;
      const part = bytes.subarray(sent, sent + Math.min(this.#frame, this.#credit));
      const message = new Uint8Array(1 + part.length);
      message[0] = stream;
      message.set(part, 1);
      this.#credit -= part.length;
      this.#socket.send(message);
      sent += part.length;
    }
    return this.open;
  }

  /** So many bytes that the gateway sent are dealt with: it may send as many more. */
  took(size) {
    this.#taken += size;
    if (this.#taken >= this.#window / 4) {
      this.send({ type: "credit", size: this.#taken });
      this.#taken = 0;
    }
  }

  close() {
    this.#socket.close();
  }

  async #credited() {
    while (this.open && this.#credit <= 0) await new Promise((wake) => this.#room.push(wake));
    return this.open;
  }

  #wake() {
    for (const wake of this.#room.splice(0)) wake();
  }

  #received(data) {
    if (typeof data !== "string") {
      const bytes = new Uint8Array(data);
      this.#told.bytes(bytes[0], bytes.subarray(1));
      return;
    }
    const message = JSON.parse(data);
    switch (message.type) {
      case "accepted":
        this.#credit = message.window;
        this.#frame = message.frame;
        this.#wake();
        break;
      case "credit":
        this.#credit += message.size;
        this.#wake();
        break;
      case "exit":
      case "report":
        this.#last = message;
        this.#wake();
        break;
      default:
        this.#told.message(message, () => this.took(counted(data, message)));
    }
  }
}

/** What a text message takes of the window. */
function counted(text, message) {
  if (message.type === "entry") return encoder.encode(text).length + ENTRY_COST;
  if (message.type === "batch") return encoder.encode(text).length + ENTRY_COST * message.entries.length;
  return 0;
}

/** An end that nobody told: what its close code says (docs/protocol.md, Life). */
function lost(code, refused) {
  const reason = refused ?? {
    1001: new Refusal("draining", "The gateway stops."),
    1013: new Refusal("too_many", "The gateway has too many sessions; try again later."),
  }[code] ?? new Refusal("connection_lost", "The connection to the gateway was lost.");
  return { outcome: "lost", error: { code: reason.code, message: reason.message } };
}
