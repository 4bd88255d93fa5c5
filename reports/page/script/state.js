// What is shown, as the part of the address after "#", so that a link can point at it.

const DEFAULTS = {
  view: "", mask: "", backend: "", direction: "", s: "", dtype: "", shape: "", setup: "0",
  by: "device", unit: "ms", find: "", sort: "", trend: "",
};

/** The state in an address. Names that are unknown are left out. */
function parseState(hash) {
  const state = { ...DEFAULTS };
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [name, value] = part.split("=", 2);
    if (!Object.hasOwn(DEFAULTS, name) || value === undefined) continue;
    try {
      state[name] = decodeURIComponent(value);
    } catch {
      // not an encoded text: a link that was cut off
    }
  }
  return state;
}

/** The address of a state. Only what differs from the defaults is in it. */
function hashOf(state) {
  const parts = Object.entries(state)
    .filter(([name, value]) => value !== DEFAULTS[name])
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  return `#${parts.join("&")}`;
}

/** Names of backends as one text and back. A name may have any character. */
const joinNames = (names) => names.map(encodeURIComponent).join("+");
const splitNames = (text) => (text === "" ? [] : text.split("+").map(decodeName));

function decodeName(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
