/** Light and dark: what the system prefers, unless the reader says otherwise for this page's life. */

import { the } from "./dom.js";

const LIGHT = {
  background: "#ffffff", foreground: "#1d2424", cursor: "#1f6f65", cursorAccent: "#ffffff",
  selectionBackground: "#b9ddd7",
  black: "#1d2424", red: "#b3261e", green: "#2c6e31", yellow: "#7a5900", blue: "#2158a8", magenta: "#8a3a8f",
  cyan: "#136b70", white: "#5c6666", brightBlack: "#667070", brightRed: "#c5362d", brightGreen: "#2f7a35",
  brightYellow: "#856100", brightBlue: "#2b66c0", brightMagenta: "#9b489f", brightCyan: "#187a80", brightWhite: "#3a4343",
};
const DARK = {
  background: "#12181a", foreground: "#dbe4e3", cursor: "#6fcabb", cursorAccent: "#12181a",
  selectionBackground: "#2f5550",
  black: "#2a3234", red: "#f28b82", green: "#8fcf95", yellow: "#e3c46b", blue: "#8ab4f8", magenta: "#d7a3e0",
  cyan: "#78d0d6", white: "#c4cfce", brightBlack: "#84908f", brightRed: "#ffa79f", brightGreen: "#a9e3ae",
  brightYellow: "#f4d98b", brightBlue: "#aecbfa", brightMagenta: "#e6bdec", brightCyan: "#98e4e9", brightWhite: "#ffffff",
};

const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

/** The colours of a terminal, now. */
export function terminalColours() {
  const wanted = document.documentElement.dataset.theme;
  return (wanted ? wanted === "dark" : system.matches) ? DARK : LIGHT;
}

/** Call `listener` whenever the colours change; returns what ends that. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const tell = () => listeners.forEach((listener) => listener());
system.addEventListener("change", tell);
the("theme").addEventListener("change", ({ target }) => {
  document.documentElement.dataset.theme = target.value;
  tell();
});
