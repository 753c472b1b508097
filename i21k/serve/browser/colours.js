// Colours of a profile (ICC) to sRGB, as LittleCMS converts them with 8 bits: a curve for each
// channel, a matrix, sRGB's curve. Profiles of cameras and screens are of this kind.

const ONE = 1 << 14; // LittleCMS computes with 14 bits after the point
const fixed = (x) => Math.floor(x * ONE + 0.5);
const SRGB = { gamma: 2.4, a: 1 / 1.055, b: 0.055 / 1.055, c: 1 / 12.92, d: 0.04045 };

const product = (m, n) => m.map((row) => n[0].map((_, column) => row.reduce((sum, one, k) => sum + one * n[k][column], 0)));
const diagonal = (values) => values.map((one, row) => values.map((_, column) => (row === column ? one : 0)));

function inverse([[a, b, c], [d, e, f], [g, h, i]]) {
  const [x, y, z] = [e * i - f * h, f * g - d * i, d * h - e * g];
  const det = a * x + b * y + c * z;
  return [[x, c * h - b * i, b * f - c * e], [y, a * i - c * g, c * d - a * f], [z, b * g - a * h, a * e - b * d]].map((row) =>
    row.map((one) => one / det),
  );
}

// XYZ of a colour from its chromaticity, with Y = 1.
const xyz = ([x, y]) => [x / y, 1, (1 - x - y) / y];
const column = (values) => values.map((one) => [one]);

// sRGB to XYZ at the white of D50, by the transform of Bradford.
function matrixOfSrgb() {
  const bradford = [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]];
  const primaries = [[0.64, 0.33], [0.3, 0.6], [0.15, 0.06]].map(xyz);
  const plain = primaries[0].map((_, row) => primaries.map((one) => one[row]));
  const from = xyz([0.3127, 0.329]);
  const to = [0.9642, 1, 0.8249];
  const scales = product(inverse(plain), column(from)).flat();
  const [cone, wanted] = [product(bradford, column(from)).flat(), product(bradford, column(to)).flat()];
  const adapt = product(inverse(bradford), product(diagonal(wanted.map((one, k) => one / cone[k])), bradford));
  return product(adapt, product(plain, diagonal(scales)));
}

// 8 bits for each of the 14-bit numbers from 0 to 1.
function toSrgb() {
  const { gamma, a, b, c, d } = SRGB;
  return Uint8Array.from({ length: ONE + 1 }, (_, at) => {
    const y = at / ONE;
    const bend = (a * d + b) ** gamma;
    const x = y >= bend ? (y ** (1 / gamma) - b) / a : y / c;
    const word = Math.floor(Math.max(0, Math.min(1, x)) * 65535 + 0.5);
    return Math.floor((word * 65281 + 8388608) / 2 ** 24);
  });
}

// What a profile contains: {isSrgb}, {curves, matrix}, {curve} of grey, or {} if it is of
// another kind.
export function readProfile(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, Math.min(to, bytes.length)));
  try {
    const tags = new Map();
    for (let number = 0; number < view.getUint32(128); number++) {
      const at = 132 + 12 * number;
      tags.set(text(at, at + 4), [view.getUint32(at + 4), view.getUint32(at + 8)]);
    }
    const [from, length] = tags.get("desc") ?? [0, 0];
    if (/srgb/iu.test(text(from, from + Math.min(length, 4000)).replaceAll("\0", ""))) return { isSrgb: true };
    if (text(20, 24) !== "XYZ " || tags.has("A2B0")) return {};
    const curve = (name) => curveAt(view, tags.get(name)[0]);
    if (text(16, 20) === "GRAY") return { curve: curve("kTRC") };
    if (text(16, 20) !== "RGB ") return {};
    const colorant = (name) => [8, 12, 16].map((skip) => view.getInt32(tags.get(name)[0] + skip) / 65536);
    const columns = ["rXYZ", "gXYZ", "bXYZ"].map(colorant);
    const matrix = [0, 1, 2].map((row) => columns.map((one) => one[row]));
    return { curves: ["rTRC", "gTRC", "bTRC"].map(curve), matrix };
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
    return { isSrgb: true }; // damaged: nothing is converted
  }
}

// A function from 0..1 to 0..1.
function curveAt(view, at) {
  const kind = view.getUint32(at);
  if (kind === 0x63757276) { // curv
    const size = view.getUint32(at + 8);
    if (size === 0) return (x) => x;
    if (size === 1) return (x) => x ** (view.getUint16(at + 12) / 256);
    const table = Array.from({ length: size }, (_, n) => view.getUint16(at + 12 + 2 * n));
    return (x) => interpolated(table, x);
  }
  if (kind !== 0x70617261) throw new RangeError("no curve"); // para
  const number = view.getUint16(at + 8);
  const [g, a, b, c, d, e, f] = Array.from({ length: [1, 3, 4, 5, 7][number] }, (_, n) => view.getInt32(at + 12 + 4 * n) / 65536);
  const power = (x, add = 0) => Math.max(0, a * x + b) ** g + add;
  if (number === 0) return (x) => x ** g;
  if (number === 1) return (x) => (x >= -b / a ? power(x) : 0);
  if (number === 2) return (x) => (x >= -b / a ? power(x, c) : c);
  if (number === 3) return (x) => (x >= d ? power(x) : c * x);
  return (x) => (x >= d ? power(x, e) : c * x + f);
}

// LittleCMS' linear interpolation of 16-bit numbers.
function interpolated(table, x) {
  const word = Math.floor(x * 65535 + 0.5);
  if (word === 65535) return table.at(-1) / 65535;
  const scaled = word * (table.length - 1);
  const at = scaled + Math.floor((scaled + 0x7fff) / 0xffff); // 16 bits after the point
  const [cell, rest] = [Math.floor(at / 65536), at % 65536];
  const [low, high] = [table[cell], table[cell + 1]];
  return (low + Math.floor(((high - low) * rest + 0x8000) / 65536)) / 65535;
}

// Convert RGB bytes in place. Grey profiles convert grey images, in which the three are equal.
export function convert(data, { curves, matrix, curve }) {
  const out = toSrgb();
  const shaped = (of) => Int32Array.from({ length: 256 }, (_, value) => fixed(of(value / 255)));
  if (curve) {
    const table = shaped(curve).map((one) => out[Math.max(0, Math.min(ONE, one))]);
    for (let at = 0; at < data.length; at++) data[at] = table[data[at]];
    return;
  }
  const [red, green, blue] = curves.map(shaped);
  const by = product(inverse(matrixOfSrgb()), matrix).map((row) => row.map(fixed));
  for (let at = 0; at < data.length; at += 3) {
    const [r, g, b] = [red[data[at]], green[data[at + 1]], blue[data[at + 2]]];
    for (let c = 0; c < 3; c++) {
      const one = (by[c][0] * r + by[c][1] * g + by[c][2] * b + (ONE >> 1)) >> 14;
      data[at + c] = out[Math.max(0, Math.min(ONE, one))];
    }
  }
}
