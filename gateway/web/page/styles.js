/**
 * Lets xterm.js style itself under `style-src 'self'`.
 *
 * Its renderer writes the sizes and colours of one terminal into <style> elements, and colours of 24 bits into
 * style attributes; both are inline styles, which the policy forbids. In this page, where nobody else makes any,
 * a new "style" is an element whose text becomes a constructed style sheet, and a span's style attribute is set
 * through CSSOM, neither of which the policy governs (CSP 3, section 6.1.15). Its option `documentOverride` would
 * not do: the scroll bar's style is made by the page's own document whatever that says.
 */

class AdoptedStyle extends HTMLElement {
  #sheet = new CSSStyleSheet();

  get textContent() {
    return "";
  }

  set textContent(rules) {
    this.#sheet.replaceSync(rules);
  }

  connectedCallback() {
    document.adoptedStyleSheets.push(this.#sheet);
  }

  disconnectedCallback() {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((sheet) => sheet !== this.#sheet);
  }
}

customElements.define("adopted-style", AdoptedStyle);

const create = document.createElement.bind(document);
document.createElement = (tag, options) => create(tag === "style" ? "adopted-style" : tag, options);

const { setAttribute } = Element.prototype;
HTMLSpanElement.prototype.setAttribute = function set(name, value) {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};
