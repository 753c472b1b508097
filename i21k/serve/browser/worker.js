// The thread that decodes images and runs the network, so that the page stays responsive.

import * as ort from "../runtime/ort.wasm.min.js";
import { prepared } from "./decode.js";
import { Refused } from "./refused.js";

const runtime = new URL("../runtime/", import.meta.url);
ort.env.wasm.wasmPaths = {
  mjs: new URL("ort-wasm-simd-threaded.js", runtime).href,
  wasm: new URL("ort-wasm-simd-threaded.wasm", runtime).href,
};
// More threads need headers that many web servers do not send.
if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1;

let model; // its description
let session; // the promise of one

async function fetched(url, numBytes) {
  const incomplete = (why) => new Refused({ code: "no_model", message: `The model cannot be loaded (${why}). Load the page again.` });
  let reply;
  try {
    reply = await fetch(url);
  } catch (error) {
    throw incomplete(error.message);
  }
  if (!reply.ok) throw incomplete(`status ${reply.status}`);
  const content = new Uint8Array(numBytes);
  let at = 0;
  const reader = reply.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw incomplete(error.message);
    });
    if (done) break;
    if (at + value.length > numBytes) throw incomplete("it is larger than expected");
    content.set(value, at);
    at += value.length;
    postMessage({ loaded: at });
  }
  if (at !== numBytes) throw incomplete(`${at} of ${numBytes} bytes arrived`);
  return content;
}

async function load() {
  const content = await fetched(new URL(`../${model.file.name}`, import.meta.url), model.file.bytes);
  return ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
}

// The pixels as the graph takes them. A fixed batch is filled with black images.
function tensor(pixels) {
  const { input, preprocessing, normalisation } = model;
  const size = preprocessing.image_size;
  const batch = input.batch ?? 1;
  const out = new (input.kind === "uint8" ? Uint8Array : Float32Array)(batch * pixels.length);
  for (let at = 0; at < pixels.length; at++) {
    const [place, colour] = [Math.floor(at / 3), at % 3];
    const value = input.kind === "uint8" ? pixels[at] : (pixels[at] / 255 - normalisation.mean[colour]) / normalisation.std[colour];
    out[input.channels_first ? colour * size * size + place : at] = value;
  }
  const shape = input.channels_first ? [batch, 3, size, size] : [batch, size, size, 3];
  return new ort.Tensor(input.kind, out, shape);
}

async function outputs(file) {
  const pixels = await prepared(file, model.preprocessing);
  const found = await (await session).run({ [model.input.name]: tensor(pixels) }, [model.output]);
  return Float32Array.from(found[model.output].data.subarray(0, model.num_classes));
}

self.onmessage = async ({ data }) => {
  if (data.model) {
    ({ model } = data);
    session = load();
    session.then(() => postMessage({ ready: true }), (error) => postMessage({ failed: error.message }));
    return;
  }
  try {
    postMessage({ number: data.number, outputs: await outputs(data.file) });
  } catch (error) {
    const { code = "failed", message } = error instanceof Refused ? error : { message: `The model failed: ${error}` };
    postMessage({ number: data.number, refusal: { code, message } });
  }
};
