/** Takes a photo with the machine's camera. */

import { byId } from "./elements.js";

/** Enough that the network sees no trace of it. */
const JPEG_QUALITY = 0.95;

/**
 * Make a button take photos.
 *
 * @param {HTMLButtonElement[]} buttons Hidden where there is no camera to be had.
 * @param {(files: File[]) => void} onPhoto
 */
export function offerCamera(buttons, onPhoto) {
  const capture = byId("capture");
  capture.addEventListener("change", () => {
    onPhoto([...capture.files]);
    capture.value = "";
  });
  // A phone's own camera takes better photos than a page does, and browsers hand out the stream
  // only to pages that came through TLS or from the same machine.
  const isPhone = window.matchMedia("(pointer: coarse)").matches;
  const hasStream = Boolean(navigator.mediaDevices?.getUserMedia);
  for (const button of buttons) {
    button.hidden = !isPhone && !hasStream;
    button.addEventListener("click", () => (isPhone ? capture.click() : openCamera(onPhoto)));
  }
}

/** @param {(files: File[]) => void} onPhoto */
async function openCamera(onPhoto) {
  const dialog = byId("camera");
  const video = dialog.querySelector("video");
  const sentence = byId("camera-message");
  const shutter = byId("shutter");
  let stream = null;
  sentence.textContent = "Waiting for the camera…";
  shutter.disabled = true;
  shutter.onclick = async () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", JPEG_QUALITY));
    dialog.close();
    const now = new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");
    onPhoto([new File([blob], `camera-${now}.jpg`, { type: "image/jpeg" })]);
  };
  dialog.onclose = () => {
    stream?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
  dialog.showModal();
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 } },
    });
  } catch (error) {
    sentence.textContent = cameraSentence(error.name);
    return;
  }
  if (!dialog.open) {
    stream.getTracks().forEach((track) => track.stop()); // closed while it was asked for
    return;
  }
  video.srcObject = stream;
  await video.play();
  sentence.textContent = "";
  shutter.disabled = false;
  shutter.focus();
}

/** @param {string} name Of the error that getUserMedia ended with. */
function cameraSentence(name) {
  if (name === "NotAllowedError") return "The browser was not allowed to use the camera.";
  if (name === "NotFoundError") return "No camera was found.";
  if (name === "NotReadableError") return "The camera is in use by another program.";
  return "The camera cannot be used.";
}
