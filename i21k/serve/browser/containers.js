// The headers of an image file: its colour profile, and for a JPEG how it is coded.

// {isKnown, profile, isGrey, isPlain, isProgressive, isReducible}. In files that are not known, the
// browser converts colours. isPlain: an upright JPEG that the packer may store as it is.
// isReducible: one that Python decodes at a part of its size.
export async function readContainer(bytes) {
  const found = { isKnown: true, profile: null, isGrey: false, isPlain: false, isProgressive: false, isReducible: false };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return readJpeg(bytes, view, text, found);
  if (text(1, 4) === "PNG") return readPng(bytes, view, text, found);
  if (text(0, 4) === "RIFF" && text(8, 12) === "WEBP") return readWebP(bytes, view, text, found);
  if (text(0, 4) === "GIF8" || text(0, 2) === "BM") return found;
  return { ...found, isKnown: false };
}

function readJpeg(bytes, view, text, found) {
  let isUpright = true;
  const parts = []; // of the profile: a segment has at most 64 KB
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff; ) {
    const marker = bytes[at + 1];
    if (marker === 0xff || marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += marker === 0xff ? 1 : 2;
      continue;
    }
    const end = at + 2 + view.getUint16(at + 2);
    if (marker === 0xd9 || marker === 0xda || end > bytes.length) break;
    if (marker === 0xe1 && text(at + 4, at + 10) === "Exif\0\0") isUpright = orientation(view, at + 10, end) === 1;
    if (marker === 0xe2 && text(at + 4, at + 15) === "ICC_PROFILE") parts[bytes[at + 16]] = bytes.subarray(at + 18, end);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const sampling = Array.from({ length: bytes[at + 9] }, (_, number) => bytes[at + 11 + 3 * number]);
      const isUsual = [0x11, 0x21, 0x12, 0x22].includes(sampling[0]) && sampling[1] === 0x11 && sampling[2] === 0x11;
      found.isGrey = sampling.length === 1;
      found.isPlain = marker <= 0xc2 && bytes[at + 4] === 8 && (found.isGrey || (sampling.length === 3 && isUsual));
      found.isProgressive = marker === 0xc2;
      found.isKnown = sampling.length <= 3; // CMYK
    }
    at = end;
  }
  if (parts.length) found.profile = joined(parts.filter(Boolean));
  found.isReducible = found.isPlain;
  found.isPlain &&= isUpright;
  return found;
}

// The orientation in EXIF data, 1 if there is none.
function orientation(view, start, end) {
  if (end - start < 14) return 1;
  const isLittle = view.getUint16(start) === 0x4949;
  const first = start + view.getUint32(start + 4, isLittle);
  if (first + 2 > end) return 1;
  for (let number = 0; number < view.getUint16(first, isLittle); number++) {
    const at = first + 2 + 12 * number;
    if (at + 12 > end) return 1;
    if (view.getUint16(at, isLittle) === 0x0112) return view.getUint16(at + 8, isLittle);
  }
  return 1;
}

async function readPng(bytes, view, text, found) {
  found.isGrey = bytes[24] === 8 && bytes[25] === 0;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const [length, kind] = [view.getUint32(at), text(at + 4, at + 8)];
    if (kind === "IDAT") break;
    if (kind === "iCCP") {
      const content = bytes.subarray(at + 8, at + 8 + length);
      found.profile = await inflated(content.subarray(content.indexOf(0) + 2));
    }
    at += 12 + length;
  }
  return found;
}

function readWebP(bytes, view, text, found) {
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (text(at, at + 4) === "ICCP") found.profile = bytes.subarray(at + 8, at + 8 + length);
    at += 8 + length + (length & 1);
  }
  return found;
}

// What zlib compressed; null if it is damaged.
async function inflated(bytes) {
  try {
    return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return null;
  }
}

function joined(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
