/** The photos side by side, each with its state; a click shows one. */

import { decodePhoto, element } from "./elements.js";

/** Screen pixels of a thumbnail, twice as many as it is wide, for dense screens. */
const THUMBNAIL = { width: 168, height: 126 };

const STATES = { waiting: "waiting", working: "being segmented", done: "done", failed: "failed" };

export class Strip {
  #list;
  #onSelect;
  #onRemove;
  #tiles = new Map();
  #decoding = Promise.resolve();

  /**
   * @param {HTMLElement} list
   * @param {object} listeners
   * @param {(photo: object) => void} listeners.onSelect
   * @param {(photo: object) => void} listeners.onRemove
   */
  constructor(list, { onSelect, onRemove }) {
    this.#list = list;
    this.#onSelect = onSelect;
    this.#onRemove = onRemove;
  }

  /** Follow the photos: tiles of new ones are made, those of removed ones go. */
  show(photos, selected) {
    for (const [id, tile] of this.#tiles) {
      if (photos.some((photo) => photo.id === id)) continue;
      tile.item.remove();
      this.#tiles.delete(id);
    }
    for (const photo of photos) {
      if (!this.#tiles.has(photo.id)) this.#add(photo);
      this.update(photo);
      const { button } = this.#tiles.get(photo.id);
      if (photo === selected) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  /** Show a photo's state. */
  update(photo) {
    const tile = this.#tiles.get(photo.id);
    if (!tile) return;
    tile.item.dataset.state = photo.state;
    tile.state.textContent = `, ${STATES[photo.state]}`;
  }

  /** Put the focus on a photo's tile. */
  focus(photo) {
    this.#tiles.get(photo.id)?.button.focus();
  }

  #add(photo) {
    const canvas = element("canvas", { ...THUMBNAIL });
    canvas.setAttribute("aria-hidden", "true");
    const state = element("span", { className: "visually-hidden" });
    const badge = element("span", { className: "badge" });
    badge.setAttribute("aria-hidden", "true");
    const button = element("button", { type: "button", title: photo.name }, [
      canvas,
      badge,
      element("span", { className: "caption", textContent: photo.name }),
      state,
    ]);
    button.addEventListener("click", () => this.#onSelect(photo));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Delete") return;
      event.preventDefault();
      this.#onRemove(photo);
    });
    const item = element("li", {}, [button]);
    this.#tiles.set(photo.id, { item, button, state });
    this.#list.append(item);
    // One after another: decoded photos are large, and somebody may drop a hundred.
    this.#decoding = this.#decoding.then(() => this.#drawThumbnail(photo, canvas));
  }

  async #drawThumbnail(photo, canvas) {
    if (!this.#tiles.has(photo.id)) return;
    const bitmap = await decodePhoto(photo.file);
    if (!bitmap) return;
    const zoom = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
    const [width, height] = [bitmap.width * zoom, bitmap.height * zoom];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(
      bitmap,
      (canvas.width - width) / 2,
      (canvas.height - height) / 2,
      width,
      height,
    );
    bitmap.close();
  }
}
