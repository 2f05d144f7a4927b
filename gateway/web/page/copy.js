/** Copies by vmgate.v1's cp: files and directories into a guest, a file or a tree out of it. */

import { amount } from "./dom.js";
import { sentence } from "./gateway.js";
import { CONTENT, Socket } from "./socket.js";
import { Archive } from "./tar.js";
import { Transfer } from "./transfers.js";

const WINDOW = 4 * 1024 * 1024; // bytes
const FRAME = 256 * 1024;
const PART = 1024 * 1024; // bytes of a file that are read at once
const WAIT = 60; // seconds for a guest that boots
const KEPT = 16 * 1024 * 1024; // bytes in pieces before they become a blob, which the browser may keep on its disk
const MAX_PROBLEMS = 3; // that are told in words

const address = (instance) => `instances/${encodeURIComponent(instance.id)}/cp`;

/**
 * Copy `sources` ({path, file} or {path, directory: true}, parents first) below the directory `path` of the guest.
 * Resolves when it came to its end, good or bad, which the transfer tells.
 */
export function upload(gateway, instance, user, path, sources) {
  return new Promise((resolve) => {
    const files = sources.filter((source) => source.file);
    const what = files.length === 1 ? files[0].path : `${files.length} files`;
    let givenUp = false;
    const transfer = new Transfer(`${what} → ${instance.name}:${path || "~"}`, () => {
      givenUp = true;
      socket.close();
    });
    transfer.total = files.reduce((sum, { file }) => sum + file.size, 0);
    const problems = [];
    let unread = "";
    const socket = new Socket(
      gateway,
      address(instance),
      { type: "upload", path: path || ".", parents: true, user, wait: WAIT, frame: FRAME, window: WINDOW },
      {
        bytes() {},
        async message(message) {
          if (message.type === "placed") transfer.moved(message.size);
          else if (message.type === "problem") problems.push(message);
          else if (message.type === "ready") {
            if (message.exists && !message.is_dir) {
              unread = `${path} is a file, not a directory.`;
              socket.close();
              return;
            }
            unread = await send(socket, sources, message.exists);
            if (unread) socket.close();
          }
        },
        ended(end) {
          if (givenUp) transfer.failed("Given up. Files that were not whole are not there.");
          else if (unread) transfer.failed(unread);
          else if (end.error) transfer.failed(sentence(end.error.message));
          else if (problems.length) transfer.failed(troubles(problems));
          else transfer.done(`${amount(transfer.total)} uploaded.`);
          resolve();
        },
      },
    );
  });
}

/** Everything in its order. Returns what is wrong with a source, or "". */
async function send(socket, sources, exists) {
  if (!exists) await socket.sendEntry({ type: "entry", path: "", kind: "directory", mode: 0o755 });
  for (const { path, file } of sources) {
    if (!file) {
      await socket.sendEntry({ type: "entry", path, kind: "directory", mode: 0o755 });
      continue;
    }
    const mtime = Math.floor(file.lastModified / 1000);
    const entry = { type: "entry", path, kind: "file", mode: 0o644, size: file.size, mtime };
    if (!(await socket.sendEntry(entry))) return "";
    for (let read = 0; read < file.size; read += PART) {
      let part;
      try {
        part = await file.slice(read, read + PART).arrayBuffer();
      } catch {
        return `${path} cannot be read, or changed meanwhile.`;
      }
      if (!(await socket.sendBytes(CONTENT, new Uint8Array(part)))) return "";
    }
    socket.send({ type: "end" });
  }
  socket.send({ type: "finish" });
  return "";
}

/**
 * Copy what is at `path` of the guest to the reader's downloads: a file as it is, a directory as a tar archive.
 * Resolves when it came to its end, good or bad, which the transfer tells.
 */
export function download(gateway, instance, user, path) {
  return new Promise((resolve) => {
    let givenUp = false;
    const transfer = new Transfer(`${instance.name}:${path}`, () => {
      givenUp = true;
      socket.close();
    });
    const got = new Incoming(transfer);
    const socket = new Socket(
      gateway,
      address(instance),
      { type: "download", path, user, wait: WAIT, frame: FRAME, window: WINDOW },
      {
        message(message, took) {
          got.message(message);
          took();
        },
        bytes(_, bytes) {
          got.bytes(bytes);
          socket.took(bytes.length);
        },
        ended(end) {
          if (givenUp) transfer.failed("Given up.");
          else if (end.error) transfer.failed(sentence(end.error.message));
          else if (got.file === null) transfer.failed(troubles(got.problems) || "There is nothing that could be downloaded.");
          else if (got.problems.length && !got.archived) transfer.failed(troubles(got.problems));
          else {
            save(got.name, got.whole());
            if (got.problems.length) transfer.failed(`Downloaded, but not whole: ${troubles(got.problems)}`);
            else transfer.done(`${amount(got.size)} downloaded.`);
          }
          resolve();
        },
      },
    );
  });
}

/** What comes out of a guest, put together in the browser. */
class Incoming {
  #pieces = [];
  #kept = new Blob();
  #loose = 0; // bytes in pieces
  #queue = []; // files whose content follows: how many bytes are left of each
  #archive = null; // of a directory
  file = null; // the first entry
  name = "";
  size = 0;
  problems = [];

  constructor(transfer) {
    this.transfer = transfer;
  }

  message(message) {
    switch (message.type) {
      case "entry":
        this.#entry(message);
        break;
      case "batch":
        message.entries.forEach((entry) => this.#entry(entry));
        break;
      case "hole":
        this.#zeroes(message.size);
        break;
      case "problem":
        this.problems.push(message);
        this.#zeroes(this.#queue[0] ?? 0); // in place of the content's rest
        break;
      case "end":
        this.#zeroes(this.#queue[0] ?? 0);
        break;
    }
  }

  #entry(entry) {
    if (this.file === null) {
      this.file = entry;
      const base = (entry.path ?? "download").split("/").pop() || "root";
      this.#archive = entry.kind === "directory" ? new Archive((bytes) => this.#put(bytes)) : null;
      this.name = this.#archive ? `${base}.tar` : base;
      this.transfer.total = this.#archive ? 0 : entry.size;
    }
    this.#archive?.entry(entry);
    if (entry.kind === "file" && entry.size > 0) this.#queue.push(entry.size);
  }

  /** Content: of one file, or in a batch of several, one behind the other. */
  bytes(bytes) {
    this.size += bytes.length;
    this.transfer.moved(this.size);
    for (let done = 0; done < bytes.length && this.#queue.length; ) {
      const part = bytes.subarray(done, done + this.#queue[0]);
      this.#content(part);
      done += part.length;
    }
  }

  #zeroes(size) {
    for (let left = size; left > 0 && this.#queue.length; ) {
      const part = new Uint8Array(Math.min(left, PART, this.#queue[0]));
      this.#content(part);
      left -= part.length;
    }
  }

  #content(part) {
    this.#put(part);
    this.#queue[0] -= part.length;
    if (this.#queue[0] === 0) {
      this.#queue.shift();
      this.#archive?.end();
    }
  }

  #put(bytes) {
    this.#pieces.push(bytes);
    this.#loose += bytes.length;
    if (this.#loose >= KEPT) this.#keep();
  }

  #keep() {
    this.#kept = new Blob([this.#kept, ...this.#pieces.splice(0)]);
    this.#loose = 0;
  }

  get archived() {
    return this.#archive !== null;
  }

  /** All of it, once it came to its end. */
  whole() {
    this.#archive?.finish();
    this.#keep();
    return this.#kept;
  }
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function troubles(problems) {
  const told = problems.slice(0, MAX_PROBLEMS).map(({ path, message }) => sentence(path ? `${path}: ${message}` : message));
  const more = problems.length - told.length;
  return told.join(" ") + (more > 0 ? ` And ${more} more.` : "");
}
