// Numbers and types for people: three digits, powers of 1000.

function scaled(value, units) {
  let i = 0;
  while (Math.abs(value) >= 999.5 && i < units.length - 1) { value /= 1000; i += 1; }
  return [Number(value.toPrecision(3)).toString(), units[i]];
}

const bytesText = (n) => (n === undefined || n === null ? "–" : scaled(n, ["B", "kB", "MB", "GB", "TB"]).join(" "));
const countText = (n) => (n === undefined || n === null ? "–" : scaled(n, ["", "k", "M", "G", "T"]).join(" ").trim());
const secondsText = (s) => (s ? scaled(s * 1e9, ["ns", "µs", "ms", "s"]).join(" ") : "–");
const nanosText = (ns) => secondsText(ns / 1e9);
const percent = (x) => (x > 0 && x < 0.0005 ? "under 0.1 %" : `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)} %`);
const wholeText = (n) => (Number.isInteger(n) && Math.abs(n) < 1e6 ? String(n) : countText(n));
const typeText = (type) => `${type.dtype}[${type.shape.join(",")}]`;

// A recorded value: fields of an object that say something, one after the other.
function plainText(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (Array.isArray(value)) return value.map(plainText).join(", ") || "none";
  if (typeof value !== "object") return String(value);
  return Object.entries(value).filter(([, v]) => v !== null).map(([k, v]) => `${k} ${plainText(v)}`).join(" · ") || "–";
}
const clipped = (text, length) => (text.length <= length ? text : text.slice(0, length - 1) + "…");

// An attribute as text IR has it.
function attributeText(value, kind) {
  if (Array.isArray(value)) return `[${value.join(",")}]`;
  if (kind === "float") return floatText(value);
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

// A float with its shortest digits, as Python writes them: 1.0, 1e-05.
function floatText(x) {
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) {
    const [digits, power] = x.toExponential().split("e");
    return `${digits}e${power[0]}${power.slice(1).padStart(2, "0")}`;
  }
  return Number.isInteger(x) ? `${x}.0` : String(x);
}
