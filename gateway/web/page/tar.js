/** A tar archive of the entries of vmgate.v1, in the pax format (POSIX.1-2017, pax, "pax Interchange Format"). */

const BLOCK = 512;
const TYPES = { file: "0", hard_link: "1", symlink: "2", directory: "5" };
const DIGITS = { mode: 7, uid: 7, gid: 7, size: 11, mtime: 11 }; // octal, that a header has room for
const NAME = 100; // bytes
const encoder = new TextEncoder();

export class Archive {
  #put;
  #size = 0; // of the entry whose content comes

  /** `put` takes the archive's bytes. */
  constructor(put) {
    this.#put = put;
  }

  /** An entry; a file's content and `end` follow unless it is empty. */
  entry(entry) {
    const facts = {
      ...entry,
      path: bytesOf(entry, "path", entry.kind === "directory" ? "/" : ""),
      target: bytesOf(entry, "target"),
      size: entry.kind === "file" ? entry.size : 0,
    };
    const records = extended(facts);
    if (records.length) {
      this.#put(header({ path: encoder.encode("PaxHeader"), target: records.subarray(0, 0), mode: 0o644, size: records.length }, "x"));
      this.#put(records);
      this.#pad(records.length);
    }
    this.#put(header(facts, TYPES[entry.kind]));
    this.#size = facts.size;
  }

  /** The end of a file's content. */
  end() {
    this.#pad(this.#size);
  }

  /** The end of the archive. */
  finish() {
    this.#put(new Uint8Array(2 * BLOCK));
  }

  #pad(size) {
    const over = size % BLOCK;
    if (over) this.#put(new Uint8Array(BLOCK - over));
  }
}

/** A name as bytes, which it is when it is no UTF-8. */
function bytesOf(entry, key, behind = "") {
  const coded = entry[`${key}_b64`];
  if (coded === undefined) return encoder.encode((entry[key] ?? "") + behind);
  return Uint8Array.from(atob(coded) + behind, (character) => character.charCodeAt(0));
}

/** One block. What does not fit stands in the records before it. */
function header(facts, type) {
  const block = new Uint8Array(BLOCK);
  const text = (at, words) => block.set(encoder.encode(words), at);
  const number = (at, name) => {
    const value = Math.max(0, Math.min(facts[name] ?? 0, 8 ** DIGITS[name] - 1));
    text(at, value.toString(8).padStart(DIGITS[name], "0"));
  };
  block.set(facts.path.subarray(0, NAME), 0);
  number(100, "mode");
  number(108, "uid");
  number(116, "gid");
  number(124, "size");
  number(136, "mtime");
  text(148, "        ");
  text(156, type);
  block.set(facts.target.subarray(0, NAME), 157);
  text(257, "ustar\u000000");
  const sum = block.reduce((total, byte) => total + byte, 0);
  text(148, `${sum.toString(8).padStart(6, "0")}\u0000 `);
  return block;
}

/** The records for what a header has no room for; often none. */
function extended(facts) {
  const records = [];
  const add = (key, value) => {
    const rest = 1 + key.length + 1 + value.length + 1;
    let size = rest + 1;
    while (String(size).length + rest !== size) size = String(size).length + rest; // its own digits count
    records.push(...encoder.encode(`${size} ${key}=`), ...value, 10);
  };
  if (facts.path.length > NAME) add("path", facts.path);
  if (facts.target.length > NAME) add("linkpath", facts.target);
  for (const name of ["uid", "gid", "size", "mtime"]) {
    const value = facts[name] ?? 0;
    if (value < 0 || value >= 8 ** DIGITS[name]) add(name, encoder.encode(String(value)));
  }
  return Uint8Array.from(records);
}
