// An image file to pixels as the packer would have stored it, and from there to the network's input.

import { convert, readProfile } from "./colours.js";
import { readContainer } from "./containers.js";
import { roundTrip } from "./jpeg.js";
import { reduced, reductionFor } from "./reduce.js";
import { Refused } from "./refused.js";
import { cropped, resizeBicubic, storedSize } from "./resize.js";

export const MAX_PIXELS = 1 << 26;
const DEFAULT_QUALITY = 90;

// RGB bytes of a square. `contract` is the content of preprocessing.json.
export async function prepared(file, contract) {
  const container = await readContainer(new Uint8Array(await file.arrayBuffer()));
  const profile = container.profile ? readProfile(container.profile) : { isSrgb: true };
  // A profile for grey is used in grey images only, and one for RGB in all.
  const isOurs = profile.isSrgb || profile.curves || (profile.curve && container.isGrey);
  const isIgnored = profile.isSrgb || (profile.curve && !container.isGrey);
  const isConverted = container.isKnown && (isOurs || isIgnored);
  const bitmap = await decoded(file, isConverted ? "none" : "default");
  try {
    const from = { width: bitmap.width, height: bitmap.height };
    const to = storedSize(from, contract.short_side_px ?? 0);
    let source = { size: from, read: reader(bitmap) };
    const r = reductionFor(Math.min(from.width, from.height), Math.min(to.width, to.height));
    if (r > 1 && container.isReducible) source = reduced(source.read, from, r);
    const image = resizeBicubic(source.read, source.size, to);
    const isWanted = !contract.short_side_px || (!container.isProgressive && isIgnored);
    const isStored = container.isPlain && isWanted && from.width === to.width && from.height === to.height;
    if (isStored) return cropped(image, contract.crop_fraction, contract.image_size);
    if (isConverted && !isIgnored) convert(image.data, profile);
    const stored = roundTrip(image, contract.quality ?? DEFAULT_QUALITY);
    return cropped(stored, contract.crop_fraction, contract.image_size);
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
