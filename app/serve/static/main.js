/** Puts the page together: what happens when a photo comes, is chosen, is answered. */

import { Downloads } from "./downloads.js";
import { byId, decodePhoto } from "./elements.js";
import { takeFiles } from "./intake.js";
import { Legend, percent } from "./legend.js";
import { Monitor } from "./monitor.js";
import { Photos } from "./photos.js";
import { decodeMasks, VOID } from "./rle.js";
import { Strip } from "./strip.js";
import { showTimings } from "./timings.js";
import { View } from "./view.js";

/** Largest classes named to those who do not see the mask. */
const NAMED = 5;

const canvas = byId("canvas");

const monitor = new Monitor(onServer);
const photos = new Photos(monitor, onPhoto);
const strip = new Strip(byId("strip"), { onSelect: select, onRemove: remove });
const view = new View(byId("viewport"), {
  onZoom: (zoom) => (byId("zoom").textContent = `${Math.round(zoom * 100)} %`),
  onPoint: tellPoint,
});
const legend = new Legend(byId("legend"), byId("absent"), {
  onHidden: (hidden) => {
    view.setHidden(hidden);
    offerDownloads();
  },
  onHighlight: (classId) => view.highlight(classId),
});
const downloads = new Downloads();

/** What is on the screen: a photo, its picture (null: the browser cannot show it), its answer. */
let shown = { photo: null, bitmap: null, answer: null, since: 0 };

takeFiles((files) => {
  if (!files.length) return;
  photos.add(files);
  announce(files.length === 1 ? `${files[0].name} added.` : `${files.length} photos added.`);
  refresh();
  photos.pump();
});

byId("opacity").addEventListener("input", (event) => setOpacity(event.target.value));
byId("scale").addEventListener("change", (event) => photos.rescale(event.target.value));
byId("zoom-in").addEventListener("click", () => view.zoomIn());
byId("zoom-out").addEventListener("click", () => view.zoomOut());
byId("zoom").addEventListener("click", () => view.actualSize());
byId("fit").addEventListener("click", () => view.fit());
byId("remove").addEventListener("click", () => remove(photos.selected));
byId("discard").addEventListener("click", () => remove(photos.selected));
byId("again").addEventListener("click", () => photos.again(photos.selected));
byId("show-all").addEventListener("click", () => legend.setAll(true));
byId("hide-all").addEventListener("click", () => legend.setAll(false));
setOpacity(byId("opacity").value); // browsers keep it over a reload
photos.scale = byId("scale").value;
monitor.look();

/** The server's state or its model has changed. */
function onServer() {
  document.body.dataset.server = monitor.status;
  byId("state").textContent = monitor.sentence;
  const { model } = monitor;
  if (model) {
    const names = model.classes.map((entry) => entry.name);
    byId("model").textContent = model.name;
    byId("model").title = `version ${model.version.slice(0, 12)}`;
    byId("classes").textContent =
      `${names.length} classes: ${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
  }
  describe();
  photos.pump();
}

/** A photo's state has changed. */
function onPhoto(photo) {
  strip.update(photo);
  if (photo === photos.selected) {
    refresh();
  } else if (photo.state === "failed") {
    announce(`${photo.name}: ${photo.message}`);
  }
  const done = photos.all.filter((other) => other.state === "done").length;
  if (photos.all.length > 1 && photo.state === "done") {
    announce(`${done} of ${photos.all.length} photos done.`);
  }
}

function select(photo) {
  photos.selected = photo;
  refresh();
  photos.pump();
}

function remove(photo) {
  photos.remove(photo);
  announce(`${photo.name} removed.`);
  refresh();
  photos.pump();
  // What had the focus is gone.
  if (photos.selected) strip.focus(photos.selected);
  else byId("choose").focus();
}

/** Bring the screen to the state of the selected photo. */
async function refresh() {
  const photo = photos.selected;
  document.body.dataset.view = photo ? "photos" : "empty";
  strip.show(photos.all, photo);
  describe();
  if (photo !== shown.photo) {
    shown.bitmap?.close();
    shown = { photo, bitmap: null, answer: null, since: performance.now(), decoding: null };
    frame(null);
    view.showPhoto(null);
    tellPoint(null);
    if (!photo) return;
    const before = shown; // the same photo may be shown anew before this is decoded
    shown.decoding = decodePhoto(photo.file).then((bitmap) => {
      if (shown !== before) {
        bitmap?.close();
        return;
      }
      shown.bitmap = bitmap;
      frame(bitmap);
      view.showPhoto(bitmap);
    });
  }
  const mine = shown;
  await mine.decoding;
  if (!photo || shown !== mine || shown.answer === photo.answer) return;
  shown.answer = photo.answer;
  if (photo.answer) showAnswer(photo);
  else view.showPhoto(shown.bitmap);
  describe();
}

/** Draw the mask first, then all that is said about it. */
function showAnswer(photo) {
  const { document: answer, stages, arrived, totalMs } = photo.answer;
  const { image, masks } = answer;
  if (shown.bitmap && !sameSize(shown.bitmap, image)) view.showPhoto(null);
  const colors = new Map(masks.map((mask) => [mask.class_id, mask.color]));
  view.setHidden(legend.hidden);
  frame(image);
  view.showMask(decodeMasks(answer), image, colors);
  const drawn = performance.now();
  // Looked at again later, it begins with the click.
  const start = Math.max(arrived, shown.since);
  performance.measure("answer to mask", { start, end: drawn });

  const model = answer.model.version === monitor.model?.version ? monitor.model : null;
  legend.show(masks, model?.classes ?? []);
  showTimings(byId("timings"), stages, totalMs, drawn - start);
  const scale = Number(photo.scale || (model?.scale ?? 1));
  byId("size").textContent =
    `${image.width} × ${image.height} pixels` +
    (scale === 1 ? "" : `, shown to the network at ${scale}`);
  offerDownloads();
  const largest = [...masks].sort((a, b) => b.area - a.area).slice(0, NAMED);
  const shares = largest.map((mask) => `${mask.class_name} ${percent(mask.fraction)}`).join(", ");
  canvas.setAttribute("aria-label", `Mask over ${photo.name}: ${shares || "no class found"}`);
  announce(`${photo.name} is done: ${shares || "no class found"}.`);
}

/** On a narrow screen the view takes the picture's shape. */
function frame(picture) {
  document.body.dataset.picture = picture ? "shown" : "none";
  byId("viewport").style.setProperty("--aspect", picture ? picture.width / picture.height : 1.5);
}

function offerDownloads() {
  if (!shown.answer) return;
  downloads.show(shown.photo, shown.answer.document.masks, legend.hidden, shown.photo.scale);
}

function sameSize(a, b) {
  return a.width === b.width && a.height === b.height;
}

/** Say what the selected photo waits for, or what is wrong with it. */
function describe() {
  const photo = photos.selected;
  const state = photo?.state ?? "none";
  document.body.dataset.photo = state;
  const waitsForServer = state === "waiting" && !monitor.ready;
  const sentence = {
    none: "",
    waiting: waitsForServer ? `${monitor.sentence}. The photo waits.` : "Waiting for its turn.",
    working: photo?.message || "Segmenting…",
    failed: "",
    done: photo && shown.photo === photo ? pictureSentence() : "",
  }[state];
  setText(byId("progress"), sentence);
  setText(byId("failure-sentence"), state === "failed" ? photo.message : "");
  byId("failure").hidden = state !== "failed";
  if (state !== "done") canvas.setAttribute("aria-label", photo ? `${photo.name}, no mask yet` : "");
}

function pictureSentence() {
  if (!shown.answer) return "";
  if (!shown.bitmap) return "This browser cannot show this kind of photo: here is its mask alone.";
  if (sameSize(shown.bitmap, shown.answer.document.image)) return "";
  return "This browser turns the photo another way than the server: here is its mask alone.";
}

/** Screen readers read what changes: what stays the same is left alone. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setOpacity(percents) {
  view.setOpacity(percents / 100);
  byId("opacity-value").textContent = `${percents} %`;
}

function tellPoint(point) {
  const masks = shown.answer?.document.masks ?? [];
  const name = point && masks.find((mask) => mask.class_id === point.label)?.class_name;
  byId("point").textContent = point
    ? `${point.x}, ${point.y} · ${point.label === VOID ? "no class" : name}`
    : "";
}

function announce(sentence) {
  byId("live").textContent = sentence;
}
