// The line that shows how much of the model is loaded.

import { progress } from "./api.js";

const line = document.getElementById("loading");
let numBytes;

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

progress.addEventListener("change", ({ detail }) => {
  if (detail.bytes) numBytes = detail.bytes;
  if (detail.failed) {
    line.setAttribute("role", "alert");
    line.textContent = detail.failed;
  } else if (detail.ready) line.textContent = "The model runs on this device. Images do not leave it.";
  else if (detail.loaded === numBytes) line.textContent = "Starting the model …";
  else line.textContent = `Loading the model: ${Math.round((100 * (detail.loaded ?? 0)) / numBytes)} % of ${megabytes(numBytes)}`;
});
