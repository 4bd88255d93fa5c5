// Elements of the page. All text becomes a text node: nothing of a saved run is ever markup.

/**
 * A new element. `null` children and attributes are left out; a function is a listener.
 * @param {string} name
 * @param {Object<string, any>} [attributes]
 * @param {...(Node|string|number|null|Array)} children
 * @returns {HTMLElement}
 */
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for an element of a picture. */
function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Announce a text to screen readers. */
function announce(text) {
  document.getElementById("said").textContent = text;
}

/**
 * A button that copies a text.
 * @param {string} what - named in the label
 * @param {function(): string} text
 */
function copyButton(what, text) {
  const button = el("button", { type: "button", class: "copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select the text and copy it";  // the browser forbids it, as in frames
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

/** A block of code with a button that copies it. */
function codeBlock(what, text) {
  const code = el("pre", { tabindex: "0", "aria-label": what }, el("code", {}, text));
  return el("div", { class: "code" }, copyButton(what, () => text), code);
}
