/** Where the time went: the server's stages, and the rest. */

import { element } from "./elements.js";

const WORDS = {
  decode: "Decode",
  queue: "Queue",
  transfer: "Transfer",
  forward: "Network’s forward",
  encode: "Encode",
};

/**
 * @param {HTMLElement} list A `dl`.
 * @param {{name: string, ms: number}[]} stages
 * @param {number} totalMs From sending the photo to the whole answer.
 * @param {number} drawMs From the answer to the mask on the canvas.
 */
export function showTimings(list, stages, totalMs, drawMs) {
  const inServer = stages.reduce((sum, stage) => sum + stage.ms, 0);
  const rows = [
    ...stages.map(({ name, ms }) => [WORDS[name] ?? name, ms]),
    ["Upload and download", Math.max(0, totalMs - inServer)],
    ["Total", totalMs],
    ["Drawing the mask", drawMs],
  ];
  const parts = rows.map(([name, ms]) => {
    const value = element("dd", { textContent: milliseconds(ms) });
    value.style.setProperty("--share", name === "Total" ? 0 : Math.min(1, ms / totalMs));
    return element("div", { className: name === "Total" ? "total" : "" }, [
      element("dt", { textContent: name }),
      value,
    ]);
  });
  list.replaceChildren(...parts);
}

/** @param {number} ms */
export function milliseconds(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
}
