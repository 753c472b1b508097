// An image file to pixels as the packer would have stored it, and from there to the network's input.

import { roundTrip } from "./jpeg.js";
import { cropped, resizeBicubic, storedSize } from "./resize.js";
import { Refused } from "./refused.js";

export const MAX_PIXELS = 1 << 26;
const DEFAULT_QUALITY = 90;

// RGB bytes of a square. `contract` is the content of preprocessing.json.
export async function prepared(file, contract) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const shortSide = contract.short_side_px ?? 0;
  const jpeg = readJpeg(bytes);
  const isStored = jpeg.isPlain && (!shortSide || (!jpeg.isProgressive && !jpeg.hasOtherColours));
  let bitmap = await decoded(file, isStored ? "none" : "default");
  try {
    const from = { width: bitmap.width, height: bitmap.height };
    const to = storedSize(from, shortSide);
    const isKept = isStored && from.width === to.width && from.height === to.height;
    if (isStored && !isKept) {
      bitmap.close();
      bitmap = await decoded(file, "default");
    }
    let image = resizeBicubic(reader(bitmap), from, to);
    if (!isKept) image = roundTrip(image, contract.quality ?? DEFAULT_QUALITY);
    return cropped(image, contract.crop_fraction, contract.image_size);
  } finally {
    bitmap.close();
  }
}

async function decoded(file, colorSpaceConversion) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion });
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    const message = `${file.name || "What was pasted"} is not an image, or one that this browser cannot read.`;
    throw new Refused({ code: "unreadable_image", message: `${message} Use JPEG, PNG, GIF, BMP, WebP or AVIF.` });
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    bitmap.close();
    throw tooManyPixels();
  }
  return bitmap;
}

export function tooManyPixels() {
  const message = `The image has more than ${MAX_PIXELS.toLocaleString("en")} pixels. Choose a smaller one.`;
  return new Refused({ code: "too_many_pixels", message });
}

// Gives rows of RGBA. What is transparent becomes white.
function reader(bitmap) {
  let context;
  return (top, height) => {
    if (context?.canvas.height !== height) {
      context = new OffscreenCanvas(bitmap.width, height).getContext("2d", { willReadFrequently: true });
    }
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, height);
    context.drawImage(bitmap, 0, top, bitmap.width, height, 0, 0, bitmap.width, height);
    return context.getImageData(0, 0, bitmap.width, height).data;
  };
}

// What the header of a JPEG says. The packer stores the bytes of a plain one as they are if nothing
// has to change: upright, 8 bits, grey or the usual sampling of YCbCr, not too large.
export function readJpeg(bytes) {
  const found = { isPlain: false, isProgressive: false, hasOtherColours: false };
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return found;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  let isUpright = true;
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff; ) {
    const marker = bytes[at + 1];
    if (marker === 0xff || marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += marker === 0xff ? 1 : 2;
      continue;
    }
    const end = at + 2 + view.getUint16(at + 2);
    if (marker === 0xd9 || marker === 0xda || end > bytes.length) break;
    if (marker === 0xe1 && text(at + 4, at + 10) === "Exif\0\0") isUpright = orientation(view, at + 10, end) === 1;
    if (marker === 0xe2 && text(at + 4, at + 15) === "ICC_PROFILE") {
      found.hasOtherColours ||= !/srgb/iu.test(text(at + 18, Math.min(end, at + 4000)).replaceAll("\0", ""));
    }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const sampling = Array.from({ length: bytes[at + 9] }, (_, number) => bytes[at + 11 + 3 * number]);
      const isUsual = sampling.length === 3 && [0x11, 0x21, 0x12, 0x22].includes(sampling[0]) && sampling[1] === 0x11 && sampling[2] === 0x11;
      found.isPlain = marker <= 0xc2 && bytes[at + 4] === 8 && (sampling.length === 1 || isUsual);
      found.isProgressive = marker === 0xc2;
    }
    at = end;
  }
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
