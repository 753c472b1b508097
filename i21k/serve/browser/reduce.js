// A JPEG at 1/2, 1/4 or 1/8 of its size, as libjpeg can decode it: the mean of squares of
// pixels. The decoder of a browser gives the whole size only.

// The reduction after which twice the wanted side is left, as Python chooses it; 1: none.
export const reductionFor = (short, wanted) => [8, 4, 2].find((r) => short >= 2 * r * wanted) ?? 1;

// The same rows of RGBA at the reduced size: {size, read}.
export function reduced(read, { width, height }, r) {
  const size = { width: Math.ceil(width / r), height: Math.ceil(height / r) };
  return {
    size,
    read(top, rows) {
      const numRows = Math.min(rows * r, height - top * r);
      const full = read(top * r, numRows);
      const sums = new Uint32Array(rows * size.width * 4);
      const counts = new Uint32Array(rows * size.width); // fewer at the edges
      for (let y = 0; y < numRows; y++) {
        for (let x = 0; x < width; x++) {
          const [from, to] = [y * width + x, Math.floor(y / r) * size.width + Math.floor(x / r)];
          counts[to] += 1;
          for (let c = 0; c < 4; c++) sums[to * 4 + c] += full[from * 4 + c];
        }
      }
      return Uint8ClampedArray.from(sums, (sum, at) => Math.floor(sum / counts[at >> 2] + 0.5));
    },
  };
}
