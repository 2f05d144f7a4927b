/** The dialog for files of one instance: what goes in, what comes out. The copies themselves go on without it. */

import { download, upload } from "./copy.js";
import { amount, the } from "./dom.js";

const MAX_FILES = 10_000; // of one upload

let context = null; // {gateway(), instance, user, back()}
let chosen = []; // what the next upload takes

/** Open it for an instance; `sources` is a promise of what was dropped. */
export async function openFiles(where, sources = []) {
  context = where;
  the("files-title").textContent = `Files of ${where.instance.name}`;
  the("download-problem").textContent = "";
  choose([]);
  if (!the("files").open) the("files").showModal();
  choose(await sources);
}

/** What was dropped, directories with all that is in them; to be called while the event is handled. */
export async function dropped(transfer) {
  // Both must be taken before the first await: the event's data is gone afterwards.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...transfer.files];
  if (!entries.length) return files.map((file) => ({ path: file.name, file }));
  const found = [];
  for (const entry of entries) await walk(entry, "", found);
  return found;
}

async function walk(entry, above, found) {
  if (found.length >= MAX_FILES) return;
  const path = above + entry.name;
  if (entry.isFile) {
    found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
    return;
  }
  found.push({ path, directory: true });
  const reader = entry.createReader();
  for (;;) {
    // It gives them in parts, and none at the end.
    const children = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!children.length) return;
    for (const child of children) await walk(child, `${path}/`, found);
  }
}

function choose(sources) {
  chosen = sources;
  const files = sources.filter(({ file }) => file);
  const size = amount(files.reduce((sum, { file }) => sum + file.size, 0));
  let words = "Drop files or directories here, or choose them.";
  if (files.length === 1) words = `${files[0].path}, ${size}`;
  else if (sources.length) words = `${files.length} files, ${size}`;
  if (sources.length >= MAX_FILES) words = `More than ${MAX_FILES} files: use scp or vmgate cp for these.`;
  the("upload-chosen").textContent = words;
  the("upload-start").disabled = !sources.length || sources.length >= MAX_FILES;
}

/** Let an element take files that are dropped on it. */
export function dropTarget(element, take) {
  const mine = (event) => event.dataTransfer?.types.includes("Files");
  element.addEventListener("dragover", (event) => {
    if (!mine(event)) return;
    event.preventDefault();
    event.stopPropagation();
    element.classList.add("dropping");
  });
  element.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!element.contains(relatedTarget)) element.classList.remove("dropping");
  });
  element.addEventListener("drop", (event) => {
    element.classList.remove("dropping");
    if (!mine(event)) return;
    event.preventDefault();
    event.stopPropagation();
    take(dropped(event.dataTransfer));
  });
}

dropTarget(the("upload-drop"), async (sources) => choose(await sources));
the("upload-choose").addEventListener("click", () => the("upload-files").click());
the("upload-files").addEventListener("change", ({ target }) => {
  choose([...target.files].map((file) => ({ path: file.name, file })));
  target.value = "";
});
the("upload-form").addEventListener("submit", (event) => {
  event.preventDefault();
  upload(context.gateway(), context.instance, context.user, the("upload-path").value.trim(), chosen);
  the("files").close();
});
the("download-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const path = the("download-path").value.trim();
  the("download-problem").textContent = path ? "" : "Name a path.";
  if (!path) return;
  download(context.gateway(), context.instance, context.user, path);
  the("files").close();
});
the("files").addEventListener("close", () => context.back());
// A file that misses every target must not replace the page, and with it all terminals.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
