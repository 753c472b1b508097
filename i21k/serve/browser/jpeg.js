// What JPEG does to pixels: encode at a quality and decode again, without the bytes in between.
// It is libjpeg's arithmetic (accurate integer DCT, 4:2:0, triangle upsampling), bit for bit. The
// network was trained on images that were stored so.

const LUMA = [
  16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
  18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA = [
  17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
  ...Array(32).fill(99),
];

function quantizers(table, quality) {
  const scale = quality < 50 ? Math.floor(5000 / quality) : 200 - 2 * quality;
  return Int32Array.from(table, (one) => Math.max(1, Math.min(255, Math.floor((one * scale + 50) / 100))));
}

// {width, height, data} as it is decoded after it was encoded at this quality.
export function roundTrip({ width, height, data }, quality) {
  const [luma, blue, red] = split({ width, height, data });
  code(luma, quantizers(LUMA, quality));
  for (const plane of [blue, red]) code(plane, quantizers(CHROMA, quality));
  return { width, height, data: join(luma, enlarged(blue, width, height), enlarged(red, width, height)) };
}

// A plane has whole blocks: {width, height, stride, data}, where width and height are what counts.
function newPlane(width, height) {
  const stride = Math.ceil(width / 8) * 8;
  return { width, height, stride, data: new Uint8ClampedArray(stride * Math.ceil(height / 8) * 8) };
}

const fix = (x) => Math.floor(x * 65536 + 0.5);

// Y, Cb and Cr; the last two are half as large. Columns and rows are repeated to fill the blocks.
function split({ width, height, data }) {
  const planes = [newPlane(width, height), ...Array.from({ length: 2 }, () => newPlane(Math.ceil(width / 2), Math.ceil(height / 2)))];
  const [luma, blue, red] = planes;
  const middle = (128 << 16) + 32767;
  // Full-size chroma, two rows at a time, as wide as the blocks need.
  const wide = blue.stride * 2;
  const rows = [0, 1].map(() => ({ blue: new Uint8Array(wide), red: new Uint8Array(wide) }));
  for (let y = 0; y < blue.height * 2; y++) {
    const row = rows[y & 1];
    const from = Math.min(y, height - 1) * width;
    for (let x = 0; x < Math.max(wide, luma.stride); x++) {
      const at = (from + Math.min(x, width - 1)) * 3;
      const [r, g, b] = [data[at], data[at + 1], data[at + 2]];
      if (y < height && x < luma.stride) {
        luma.data[y * luma.stride + x] = (fix(0.299) * r + fix(0.587) * g + fix(0.114) * b + 32768) >> 16;
      }
      if (x < wide) {
        row.blue[x] = (middle - fix(0.16874) * r - fix(0.33126) * g + 32768 * b) >> 16;
        row.red[x] = (middle + 32768 * r - fix(0.41869) * g - fix(0.08131) * b) >> 16;
      }
    }
    if (y & 1) {
      for (let x = 0; x < blue.stride; x++) {
        const bias = 1 + (x & 1);
        for (const [plane, name] of [[blue, "blue"], [red, "red"]]) {
          const [a, b] = [rows[0][name], rows[1][name]];
          plane.data[(y >> 1) * plane.stride + x] = (a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1] + bias) >> 2;
        }
      }
    }
  }
  for (const plane of planes) {
    const { stride } = plane;
    for (let y = plane.height; y < plane.data.length / stride; y++) {
      plane.data.copyWithin(y * stride, (plane.height - 1) * stride, plane.height * stride);
    }
  }
  return planes;
}

// Transform, quantise and transform back each block of a plane, in place.
function code({ stride, data }, quantizer) {
  const block = new Int32Array(64);
  for (let top = 0; top < data.length / stride; top += 8) {
    for (let left = 0; left < stride; left += 8) {
      for (let at = 0; at < 64; at++) block[at] = data[(top + (at >> 3)) * stride + left + (at & 7)] - 128;
      forward(block);
      for (let at = 0; at < 64; at++) {
        const by = quantizer[at] * 8; // the transform is scaled by 8
        const level = Math.floor((Math.abs(block[at]) + (by >> 1)) / by);
        block[at] = Math.sign(block[at]) * level * quantizer[at];
      }
      backward(block);
      for (let at = 0; at < 64; at++) data[(top + (at >> 3)) * stride + left + (at & 7)] = block[at] + 128;
    }
  }
}

const scaledDown = (x, bits) => (x + (1 << (bits - 1))) >> bits;

// jfdctint.c: rows, then columns.
function forward(block) {
  for (let row = 0; row < 8; row++) forwardLine(block, row * 8, 1, true);
  for (let column = 0; column < 8; column++) forwardLine(block, column, 8, false);
}

function forwardLine(d, at, step, isFirst) {
  const of = (n) => d[at + n * step];
  let [t0, t7, t1, t6] = [of(0) + of(7), of(0) - of(7), of(1) + of(6), of(1) - of(6)];
  let [t2, t5, t3, t4] = [of(2) + of(5), of(2) - of(5), of(3) + of(4), of(3) - of(4)];
  const [e0, e3, e1, e2] = [t0 + t3, t0 - t3, t1 + t2, t1 - t2];
  const down = isFirst ? 11 : 15;
  d[at] = isFirst ? (e0 + e1) << 2 : scaledDown(e0 + e1, 2);
  d[at + 4 * step] = isFirst ? (e0 - e1) << 2 : scaledDown(e0 - e1, 2);
  const z = (e2 + e3) * 4433;
  d[at + 2 * step] = scaledDown(z + e3 * 6270, down);
  d[at + 6 * step] = scaledDown(z - e2 * 15137, down);
  let [z1, z2, z3, z4] = [t4 + t7, t5 + t6, t4 + t6, t5 + t7];
  const z5 = (z3 + z4) * 9633;
  t4 *= 2446;
  t5 *= 16819;
  t6 *= 25172;
  t7 *= 12299;
  z1 *= -7373;
  z2 *= -20995;
  z3 = z3 * -16069 + z5;
  z4 = z4 * -3196 + z5;
  d[at + 7 * step] = scaledDown(t4 + z1 + z3, down);
  d[at + 5 * step] = scaledDown(t5 + z2 + z4, down);
  d[at + 3 * step] = scaledDown(t6 + z2 + z3, down);
  d[at + step] = scaledDown(t7 + z1 + z4, down);
}

// jidctint.c: columns, then rows.
function backward(block) {
  for (let column = 0; column < 8; column++) backwardLine(block, column, 8, 11);
  for (let row = 0; row < 8; row++) backwardLine(block, row * 8, 1, 18);
}

function backwardLine(d, at, step, down) {
  const of = (n) => d[at + n * step];
  const z = (of(2) + of(6)) * 4433;
  const [e2, e3] = [z - of(6) * 15137, z + of(2) * 6270];
  const [e0, e1] = [(of(0) + of(4)) << 13, (of(0) - of(4)) << 13];
  const even = [e0 + e3, e1 + e2, e1 - e2, e0 - e3];
  let [t0, t1, t2, t3] = [of(7), of(5), of(3), of(1)];
  let [z1, z2, z3, z4] = [t0 + t3, t1 + t2, t0 + t2, t1 + t3];
  const z5 = (z3 + z4) * 9633;
  z1 *= -7373;
  z2 *= -20995;
  z3 = z3 * -16069 + z5;
  z4 = z4 * -3196 + z5;
  t0 = t0 * 2446 + z1 + z3;
  t1 = t1 * 16819 + z2 + z4;
  t2 = t2 * 25172 + z2 + z3;
  t3 = t3 * 12299 + z1 + z4;
  for (const [n, odd] of [t3, t2, t1, t0].entries()) {
    d[at + n * step] = scaledDown(even[n] + odd, down);
    d[at + (7 - n) * step] = scaledDown(even[n] - odd, down);
  }
}

// A half-size plane at full size: each new pixel has 9/16, 3/16, 3/16 and 1/16 of the nearest four.
function enlarged({ width, height, stride, data }, toWidth, toHeight) {
  const out = new Uint8Array(toWidth * toHeight);
  if (width <= 2) { // as libjpeg does for very narrow images
    for (let at = 0; at < out.length; at++) {
      out[at] = data[(Math.floor(at / toWidth) >> 1) * stride + ((at % toWidth) >> 1)];
    }
    return out;
  }
  const sums = new Int32Array(width);
  for (let y = 0; y < toHeight; y++) {
    const near = (y >> 1) * stride;
    const far = Math.max(0, Math.min(height - 1, (y >> 1) + (y & 1 ? 1 : -1))) * stride;
    for (let x = 0; x < width; x++) sums[x] = data[near + x] * 3 + data[far + x];
    for (let x = 0; x < toWidth; x++) {
      const at = x >> 1;
      const other = x & 1 ? at + 1 : at - 1;
      const sum = other < 0 || other === width ? sums[at] * 4 : sums[at] * 3 + sums[other];
      out[y * toWidth + x] = (sum + (x & 1 ? 7 : 8)) >> 4;
    }
  }
  return out;
}

function join({ width, height, stride, data }, blue, red) {
  const out = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [luma, b, r] = [data[y * stride + x], blue[y * width + x] - 128, red[y * width + x] - 128];
      const at = (y * width + x) * 3;
      out[at] = luma + ((fix(1.402) * r + 32768) >> 16);
      out[at + 1] = luma + ((-fix(0.34414) * b + 32768 - fix(0.71414) * r) >> 16);
      out[at + 2] = luma + ((fix(1.772) * b + 32768) >> 16);
    }
  }
  return out;
}
