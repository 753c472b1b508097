// Change the size of RGB pixels as Python does: Pillow's antialiased bicubic (Resample.c) for the
// image that would be stored, OpenCV's bilinear and area interpolation for the network's input.
// An image is {width, height, data}, with three bytes for each pixel.

const BITS = 22; // of Pillow's weights
const SUPPORT = 2;

function cubic(at) {
  const x = Math.abs(at);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// For each output pixel: the first input pixel, and the weights from there on.
function weights(from, to) {
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const support = SUPPORT * stretch;
  return Array.from({ length: to }, (_, out) => {
    const centre = (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const found = [];
    let total = 0;
    for (let x = first; x < end; x++) {
      found.push(cubic((x - centre + 0.5) * (1 / stretch)));
      total += found.at(-1);
    }
    const whole = (one) => Math.trunc((one / total) * 2 ** BITS + (one < 0 ? -0.5 : 0.5));
    return { first, weights: Float64Array.from(found, (one) => whole(one)) };
  });
}

const HALF = 2 ** (BITS - 1);
const clipped = (sum) => Math.max(0, Math.min(255, Math.floor(sum / 2 ** BITS)));

// Rows of pixels, `step` bytes each, of which the first three count, to rows of another width.
function resizeRows(rows, step, height, width, to) {
  const out = new Uint8ClampedArray(height * to * 3);
  const taps = weights(width, to);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < to; x++) {
      const { first, weights: of } = taps[x];
      let [red, green, blue] = [HALF, HALF, HALF];
      for (let n = 0, at = (y * width + first) * step; n < of.length; n++, at += step) {
        red += rows[at] * of[n];
        green += rows[at + 1] * of[n];
        blue += rows[at + 2] * of[n];
      }
      const at = (y * to + x) * 3;
      out[at] = clipped(red);
      out[at + 1] = clipped(green);
      out[at + 2] = clipped(blue);
    }
  }
  return out;
}

function resizeColumns({ width, height, data }, to) {
  const out = new Uint8ClampedArray(to * width * 3);
  const row = new Float64Array(width * 3);
  for (const [y, { first, weights: of }] of weights(height, to).entries()) {
    row.fill(HALF);
    for (let n = 0; n < of.length; n++) {
      const from = (first + n) * width * 3;
      for (let at = 0; at < row.length; at++) row[at] += data[from + at] * of[n];
    }
    for (let at = 0; at < row.length; at++) out[y * row.length + at] = clipped(row[at]);
  }
  return { width, height: to, data: out };
}

const BAND = 256; // rows at a time, so that a large image is never held twice

// `read(top, height)` gives rows of RGBA. The result has this size.
export function resizeBicubic(read, from, to) {
  const rows = { width: to.width, height: from.height, data: new Uint8ClampedArray(from.height * to.width * 3) };
  for (let top = 0; top < from.height; top += BAND) {
    const height = Math.min(BAND, from.height - top);
    const band = read(top, height);
    const narrow = from.width === to.width ? withoutAlpha(band) : resizeRows(band, 4, height, from.width, to.width);
    rows.data.set(narrow, top * to.width * 3);
  }
  return from.height === to.height ? rows : resizeColumns(rows, to.height);
}

function withoutAlpha(rgba) {
  const rgb = new Uint8ClampedArray((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

// The size of the stored image: its short side is at most this long.
export function storedSize({ width, height }, shortSide) {
  const short = Math.min(width, height);
  if (!shortSide || short <= shortSide) return { width, height };
  return { width: even(width * shortSide, short), height: even(height * shortSide, short) };
}

// a / b to the nearest whole number, halves to the even one, as Python rounds.
function even(a, b) {
  const low = Math.floor(a / b);
  const twice = 2 * (a / b - low);
  return twice > 1 || (twice === 1 && low % 2) ? low + 1 : low;
}

// The central square whose side is this fraction of the short side, at the network's size.
export function cropped({ width, height, data }, fraction, size) {
  const side = Math.max(1, even(Math.min(width, height) * fraction, 1));
  const top = Math.floor((height - side) / 2);
  const left = Math.floor((width - side) / 2);
  const square = new Uint8ClampedArray(side * side * 3);
  for (let y = 0; y < side; y++) {
    const from = ((top + y) * width + left) * 3;
    square.set(data.subarray(from, from + side * 3), y * side * 3);
  }
  if (side === size) return square;
  return side / size >= 2 ? area(square, side, size) : bilinear(square, side, size);
}

// OpenCV's: weights of 11 bits, half-pixel centres, rounded once for each direction. Beyond the edge
// is the last pixel; only in a row does OpenCV give it the whole weight.
function bilinear(square, side, size) {
  const inside = (at) => Math.max(0, Math.min(at, side - 1));
  const taps = Array.from({ length: size }, (_, out) => {
    const at = Math.fround((out + 0.5) * (1 / (size / side)) - 0.5);
    const [first, part] = [Math.floor(at), Math.fround(at - Math.floor(at))];
    return { first, a: even(Math.fround(1 - part) * 2048, 1), b: even(part * 2048, 1) };
  });
  const rows = new Int32Array(side * size * 3);
  for (let y = 0; y < side; y++) {
    for (const [x, tap] of taps.entries()) {
      const isInside = tap.first >= 0 && tap.first < side - 1;
      const [a, b] = isInside ? [tap.a, tap.b] : [2048, 0];
      const left = (y * side + inside(tap.first)) * 3;
      const right = (y * side + inside(tap.first + 1)) * 3;
      for (let c = 0; c < 3; c++) rows[(y * size + x) * 3 + c] = square[left + c] * a + square[right + c] * b;
    }
  }
  const out = new Uint8ClampedArray(size * size * 3);
  for (const [y, { first, a, b }] of taps.entries()) {
    const [upper, lower] = [inside(first) * size * 3, inside(first + 1) * size * 3];
    for (let at = 0; at < size * 3; at++) {
      const above = ((rows[upper + at] >> 4) * a) >> 16;
      const below = ((rows[lower + at] >> 4) * b) >> 16;
      out[y * size * 3 + at] = (above + below + 2) >> 2;
    }
  }
  return out;
}

// The mean of the input pixels under each output pixel, those at its edges in part, in float32.
function area(square, side, size) {
  const scale = side / size;
  if (Number.isInteger(scale)) return wholeArea(square, side, size, scale);
  const taps = Array.from({ length: size }, (_, out) => {
    const [from, to] = [out * scale, out * scale + scale];
    const width = Math.min(scale, side - from);
    const end = Math.min(Math.floor(to), side - 1);
    const first = Math.min(Math.ceil(from), end);
    const found = first - from > 1e-3 ? [[first - 1, Math.fround((first - from) / width)]] : [];
    for (let x = first; x < end; x++) found.push([x, Math.fround(1 / width)]);
    if (to - end > 1e-3) found.push([end, Math.fround(Math.min(to - end, 1, width) / width)]);
    return found;
  });
  const out = new Uint8ClampedArray(size * size * 3);
  for (const [y, rows] of taps.entries()) {
    for (const [x, columns] of taps.entries()) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const [row, b] of rows) {
          let of = 0;
          for (const [column, a] of columns) of = Math.fround(of + Math.fround(square[(row * side + column) * 3 + c] * a));
          sum = Math.fround(sum + Math.fround(of * b));
        }
        out[(y * size + x) * 3 + c] = even(sum, 1);
      }
    }
  }
  return out;
}

function wholeArea(square, side, size, scale) {
  const out = new Uint8ClampedArray(size * size * 3);
  const part = Math.fround(1 / (scale * scale));
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let n = 0; n < scale * scale; n++) {
          const [row, column] = [y * scale + Math.floor(n / scale), x * scale + (n % scale)];
          sum += square[(row * side + column) * 3 + c];
        }
        out[(y * size + x) * 3 + c] = scale === 2 ? (sum + 2) >> 2 : even(Math.fround(sum * part), 1);
      }
    }
  }
  return out;
}
