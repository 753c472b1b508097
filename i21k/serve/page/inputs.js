// The ways in which an image comes: a file that is chosen, dropped or pasted, or a photo.

import { photograph } from "./camera.js";

export function listenForImages(at, send, complain) {
  at("choose").addEventListener("click", () => at("file").click());
  at("drop").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    if (at("file").files.length) send(at("file").files[0]);
    at("file").value = "";
  });
  at("photo").addEventListener("click", () => takePhoto(at, send, complain));
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) send(file);
    else if (!event.target.closest?.("input")) complain("The clipboard has no image.");
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    const [file] = event.dataTransfer.files;
    if (file) send(file);
    else complain("What was dropped is not a file. Save the image first, or paste it.");
  });
}

async function takePhoto(at, send, complain) {
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices?.getUserMedia) {
    at("file").setAttribute("capture", "environment"); // the camera program of a phone
    at("file").click();
    at("file").removeAttribute("capture");
    return;
  }
  try {
    const file = await photograph(at("camera"), at("video"), at("shoot"), at("cancel"));
    if (file) send(file);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    complain(`The camera cannot be used (${error.message}).`);
  }
}
