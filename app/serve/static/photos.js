/** The photos somebody brought: sent a few at a time, each with its state and its answer. */

import { patiently, RefusedError, segment, UnreachableError } from "./api.js";
import { decodePhoto } from "./elements.js";

/** Photos on their way at once: one is computed while the next is uploaded. */
const PARALLEL = 2;

/** A connection that breaks this often over one photo is the photo's fault. */
const BREAKS = 3;

/** Files from here on may be more than a server or proxy takes, in bytes. */
const LARGE = 8e6;

/** A scale that depends on the photo: on a CPU a camera's 12 megapixels would take most of a minute. */
const AUTOMATIC = "auto";

/** The most pixels that the network is shown at a scale that depends on the photo. */
const COMFORTABLE = 2e6;

/** What the API takes for such a scale, below that of the model, largest first. */
const SCALES = ["0.5", "0.25"];

let lastId = 0;

/** One photo; `state` is `waiting`, `working`, `done` or `failed`. */
class Photo {
  id = ++lastId;
  state = "waiting";
  /** A sentence, if there is something to say. */
  message = "";
  /** What `POST /segment?format=rle` said, and how long it took. */
  answer = null;
  breaks = 0;
  /** At which scale the network saw it, as the API writes it; empty: at that of the model. */
  scale = "";
  abort = new AbortController();

  /** @param {Blob} file @param {string} name */
  constructor(file, name) {
    this.file = file;
    this.name = name;
  }
}

export class Photos {
  #monitor;
  #onChange;

  /** @type {Photo[]} */
  all = [];

  /** @type {Photo | null} */
  selected = null;

  /** At which scale the network sees them: as the API writes it, or `auto`. */
  scale = AUTOMATIC;

  /**
   * @param {import("./monitor.js").Monitor} monitor
   * @param {(photo: Photo) => void} onChange Called when a photo's state has changed.
   */
  constructor(monitor, onChange) {
    this.#monitor = monitor;
    this.#onChange = onChange;
  }

  /** @param {Iterable<File>} files @returns {Photo[]} */
  add(files) {
    const added = [...files].map((file) => new Photo(file, file.name || "photo.png"));
    this.all.push(...added);
    this.selected = added[0] ?? this.selected;
    return added;
  }

  /** Take a photo away; its neighbour is selected in its place. */
  remove(photo) {
    photo.abort.abort();
    const at = this.all.indexOf(photo);
    this.all.splice(at, 1);
    if (this.selected === photo) this.selected = this.all[Math.min(at, this.all.length - 1)] ?? null;
  }

  /** Send a photo again. */
  again(photo) {
    photo.abort.abort();
    photo.abort = new AbortController();
    photo.breaks = 0;
    this.#set(photo, "waiting", "");
    this.pump();
  }

  /** See all photos at another scale. */
  rescale(scale) {
    this.scale = scale;
    for (const photo of this.all) this.again(photo);
  }

  /** Send what waits, as many as may be on their way; the selected one goes first. */
  pump() {
    const waiting = this.all.filter((photo) => photo.state === "waiting");
    waiting.sort((a, b) => (b === this.selected) - (a === this.selected));
    let free = PARALLEL - this.all.filter((photo) => photo.state === "working").length;
    if (!this.#monitor.ready) free = 0;
    for (const photo of waiting.slice(0, Math.max(0, free))) this.#send(photo);
  }

  #set(photo, state, message) {
    photo.state = state;
    photo.message = message;
    this.#onChange(photo);
  }

  async #send(photo) {
    const { signal } = photo.abort;
    photo.answer = null;
    this.#set(photo, "working", "");
    try {
      const own = this.#monitor.model?.scale ?? 1;
      photo.scale = this.scale === AUTOMATIC ? await fittingScale(photo.file, own) : this.scale;
      signal.throwIfAborted();
      const query = { format: "rle", scores: "true" };
      if (photo.scale) query.scale = photo.scale;
      let sent = 0;
      const attempt = () => {
        sent = performance.now();
        return segment(photo, query, signal);
      };
      const { body, stages } = await patiently(
        attempt,
        (error, left) => {
          this.#monitor.look(); // is it busy, or is it going away?
          this.#set(photo, "working", `${error.message} Trying again in ${left} s.`);
        },
        signal,
      );
      const text = await body.text();
      signal.throwIfAborted();
      const arrived = performance.now();
      photo.answer = { document: JSON.parse(text), stages, arrived, totalMs: arrived - sent };
      this.#set(photo, "done", "");
    } catch (error) {
      // Sent again or removed: whoever did that goes on with it.
      if (!signal.aborted) await this.#failed(photo, error, signal);
    }
    this.pump();
  }

  async #failed(photo, error, signal) {
    const gone = error instanceof UnreachableError && !(await readable(photo.file));
    if (signal.aborted) return;
    if (error instanceof RefusedError) {
      this.#set(photo, "failed", error.message);
    } else if (!(error instanceof UnreachableError)) {
      this.#set(photo, "failed", "The page could not read the server’s answer.");
      throw error;
    } else if (gone) {
      this.#set(photo, "failed", "The file can no longer be read: it was moved or changed.");
    } else if (++photo.breaks >= BREAKS) {
      const megabytes = photo.file.size / 1e6;
      this.#set(
        photo,
        "failed",
        photo.file.size < LARGE
          ? "The connection to the server broke each time this photo was sent."
          : "The connection broke each time this photo was sent; " +
              `its ${megabytes.toFixed(0)} MB may be more than the server takes.`,
      );
    } else {
      this.#set(photo, "waiting", "The server cannot be reached. The photo waits for it.");
      await this.#monitor.look();
    }
  }
}

/** The model's own scale, as an empty string, or the largest at which it is not shown too much. */
async function fittingScale(file, own) {
  const bitmap = await decodePhoto(file);
  if (!bitmap) return ""; // the browser cannot tell, and the server judges what it takes
  const pixels = bitmap.width * bitmap.height;
  bitmap.close();
  const fits = (scale) => pixels * scale * scale <= COMFORTABLE;
  if (fits(own)) return "";
  const smaller = SCALES.filter((scale) => Number(scale) < own);
  return smaller.find(fits) ?? smaller.at(-1) ?? "";
}

/** Fetch fails in the same way for a lost server and for a file that is gone. */
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
