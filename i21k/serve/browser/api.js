// What `i21k serve` answers to its page, computed in the browser: the same paths and the same JSON.

import { Answering } from "./answering.js";
import { MAX_PIXELS, tooManyPixels } from "./decode.js";
import { Refused } from "./refused.js";
import { sigmoid, softmax } from "./views.js";

export { Refused };

const KEPT = 8; // results, for other views of the same image

async function read(name) {
  const refused = (why) =>
    new Refused({ code: "incomplete", message: `${name} cannot be loaded (${why}). Load the page again.` });
  let reply;
  try {
    reply = await fetch(new URL(`../${name}`, import.meta.url));
  } catch (error) {
    throw refused(error.message);
  }
  if (!reply.ok) throw refused(`status ${reply.status}`);
  return reply.json();
}

const model = read("model.json");
const answering = model.then(async (found) => new Answering(found, found.has_wordnet ? await read("wordnet.json") : null));
answering.catch(() => {}); // those who wait for it get the error
let meanings; // the promise of them, loaded when the first is wanted

// The network, in a thread of its own

export const progress = new EventTarget(); // "change", whose detail has loaded, ready or failed
const report = (detail) => progress.dispatchEvent(new CustomEvent("change", { detail }));
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map(); // by the number of the image
let number = 0;

worker.addEventListener("message", ({ data }) => {
  if (data.number === undefined) return report(data);
  const { resolve, reject } = waiting.get(data.number);
  waiting.delete(data.number);
  return data.outputs ? resolve(data.outputs) : reject(new Refused(data.refusal));
});
worker.addEventListener("error", (event) => {
  const message = `The model cannot run in this browser (${event.message || "its script does not load"}).`;
  for (const { reject } of waiting.values()) reject(new Refused({ code: "failed", message }));
  waiting.clear();
  report({ failed: message });
});
model.then(
  (found) => {
    report({ bytes: found.file.bytes });
    worker.postMessage({ model: found });
  },
  (error) => report({ failed: error.message }),
);

async function outputs(file) {
  number += 1;
  return new Promise((resolve, reject) => {
    waiting.set(number, { resolve, reject });
    worker.postMessage({ number, file });
  });
}

// The size is in the header. An <img> reads it without decoding the pixels.
async function checkSize(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await new Promise((resolve) => {
    image.onload = image.onerror = resolve; // the decoder reports what is wrong
  });
  URL.revokeObjectURL(image.src);
  if (image.naturalWidth * image.naturalHeight > MAX_PIXELS) throw tooManyPixels();
}

// What page.js calls

const results = new Map(); // probabilities by id

function kept(id) {
  const found = results.get(id);
  if (!found) throw new Refused({ code: "unknown_result", message: "This result is not kept. Choose the image again." });
  return found;
}

const ROUTES = [
  [/^\/models$/u, async () => (({ limits, expression, ...one }) => ({ models: [one], limits, expression }))(await model)],
  [/^\/models\/[^/]+\/tree$/u, async () => (await answering).tree()],
  [/^\/models\/[^/]+\/subset$/u, async (parameters) => (await answering).choose(parameters)],
  [/^\/results\/([^/]+)\/answers$/u, async (parameters, id) => (await answering).answers(kept(id), parameters)],
  [/^\/synsets\/([^/]+)$/u, async (_, id) => ({ meaning: (await (meanings ??= read("meanings.json")))[id] ?? "" })],
];

export async function json(path, parameters = {}) {
  for (const [pattern, answer] of ROUTES) {
    const found = pattern.exec(path);
    if (found) return answer(parameters, ...found.slice(1));
  }
  throw new Error(`nothing answers ${path}`);
}

export const numbers = async (path) => (await answering).calibrated(kept(path.split("/")[2]));

export async function predict(file, parameters) {
  await checkSize(file);
  const { probability, ends_in } = await model;
  const id = String(number + 1);
  let found = await outputs(file);
  if (!["Softmax", "Sigmoid"].includes(ends_in)) found = (probability === "sigmoid" ? sigmoid : softmax)(found);
  results.set(id, found);
  if (results.size > KEPT) results.delete(results.keys().next().value);
  return { id, ...(await answering).answers(found, parameters) };
}
