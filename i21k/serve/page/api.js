// Requests to the server that sent this page.

import { Refused } from "./refused.js";

export { Refused };

async function fetched(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ code: "no_server", message: "The server does not answer. Is it still running?" });
  }
  if (reply.ok) return reply;
  let body = null;
  try {
    body = await reply.json();
  } catch {
    // not ours: a proxy between the page and the server
  }
  throw new Refused(body?.error ?? { code: "unknown", message: `The server answered ${reply.status}.` });
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export const json = async (path, parameters = {}, signal) =>
  (await fetched(path + query(parameters), { signal })).json();

export const predict = async (image, parameters, signal) =>
  (await fetched(`/predict${query(parameters)}`, { method: "POST", body: image, signal })).json();

export const numbers = async (path, signal) =>
  new Float32Array(await (await fetched(path, { signal })).arrayBuffer());
