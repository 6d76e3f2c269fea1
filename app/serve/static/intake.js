/** The ways a photo comes in: dropped, chosen, pasted, taken with a camera. */

import { offerCamera } from "./camera.js";
import { byId } from "./elements.js";

/** @param {(files: File[]) => void} onFiles */
export function takeFiles(onFiles) {
  const picker = byId("picker");
  picker.addEventListener("change", () => {
    onFiles([...picker.files]);
    picker.value = ""; // the same file again is a choice, too
  });
  for (const button of document.querySelectorAll("[data-pick]")) {
    button.addEventListener("click", () => picker.click());
  }
  offerCamera([...document.querySelectorAll("[data-camera]")], onFiles);

  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) onFiles([...event.clipboardData.files]);
  });

  // The whole window takes drops: nobody has to aim. Leaving is told once for every element that
  // is crossed, so depth counts.
  let depth = 0;
  const dragging = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => holdsFiles(event) && dragging(1));
  document.addEventListener("dragleave", (event) => holdsFiles(event) && dragging(-1));
  document.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    dragging(0);
    onFiles([...event.dataTransfer.files]);
  });
}
