/** The lines that ask the API for what is shown: the same address, for a shell and for Python. */

import { segmentUrl } from "./api.js";

/** What can be taken away: the API's format, and how its file is called. */
export const FORMATS = {
  png: { file: "mask.png", says: "Class colours as a palette; each pixel’s index is its class." },
  grey: { file: "labels.png", says: "Plain 8-bit grey; each pixel’s value is its class." },
  overlay: { file: "overlay.png", says: "The photo with the colours over it, half and half." },
  zip: { file: "masks.zip", says: "One black-and-white PNG for each class." },
  rle: { file: "masks.json", says: "COCO run lengths, areas, boxes and scores of each class." },
  polygons: { file: "masks.geojson", says: "The outlines of each class, in pixels." },
  coco: { file: "coco.json", says: "A COCO data set of this photo, for pycocotools and others." },
  cvat: { file: "cvat.zip", says: "For CVAT’s import: Segmentation mask 1.1." },
};

/** Formats that say, if asked, how sure the network is of each class. */
const SCORED = ["rle", "polygons", "coco"];

/**
 * @param {string} format One of `FORMATS`.
 * @param {string} scale As the API writes it; empty for that of the model.
 * @param {object[]} masks Classes that were found: `class_id`, `class_name`.
 * @param {Set<number>} hidden Classes that are not shown.
 * @returns {Record<string, string>} Parameters of `POST /segment` for what is shown.
 */
export function queryFor(format, scale, masks, hidden) {
  const query = { format };
  if (SCORED.includes(format)) query.scores = "true";
  if (scale) query.scale = scale;
  const shown = masks.filter((mask) => !hidden.has(mask.class_id));
  if (shown.length < masks.length) {
    query.classes = shown.map((mask) => selector(mask, masks)).join(",");
  }
  return query;
}

/** A class's name; its index where the name would not be understood in a list with commas. */
function selector({ class_id: id, class_name: name }, masks) {
  const twin = masks.some((other) => other.class_id !== id && other.class_name === name);
  return twin || name.includes(",") || name.trim() !== name || !name ? String(id) : name;
}

/** @param {string} name A photo's file name. @param {string} format */
export function downloadName(name, format) {
  return `${name.replace(/\.[^.]*$/, "") || "photo"}-${FORMATS[format].file}`;
}

/**
 * @param {string} name The photo's file name.
 * @param {Record<string, string>} query
 * @returns {string} A command for a POSIX shell.
 */
export function curlLine(name, query) {
  // curl takes , and ; in a file's name for the start of something else, unless it is quoted.
  const path = /[,;"\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
  return [
    "curl --fail-with-body",
    `-F ${shellWord(`image=@${path}`)}`,
    `${shellWord(segmentUrl(query).href)}`,
    `-o ${shellWord(`./${downloadName(name, query.format)}`)}`,
  ].join(" \\\n  ");
}

/**
 * @param {string} name The photo's file name.
 * @param {Record<string, string>} query
 * @returns {string} Python that needs httpx and nothing else.
 */
export function pythonLines(name, query) {
  const parameters = Object.entries(query).map(([key, value]) => {
    return `            ${JSON.stringify(key)}: ${JSON.stringify(value)},`;
  });
  return `import httpx

with open(${JSON.stringify(name)}, "rb") as photo:
    answer = httpx.post(
        ${JSON.stringify(segmentUrl({}).href)},
        params={
${parameters.join("\n")}
        },
        files={"image": photo},
        timeout=60,
    )
answer.raise_for_status()
with open(${JSON.stringify(downloadName(name, query.format))}, "wb") as file:
    file.write(answer.content)`;
}

/** @param {string} text */
function shellWord(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
