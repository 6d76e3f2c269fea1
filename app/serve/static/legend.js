/** The classes that were found: how much of the photo each is, shown or hidden, highlighted. */

import { element } from "./elements.js";

export class Legend {
  #list;
  #absent;
  #onHidden;
  #onHighlight;
  #masks = [];

  /** Classes that are not shown; stays from photo to photo. @type {Set<number>} */
  hidden = new Set();

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} absent Names the classes that were not found.
   * @param {object} listeners
   * @param {(hidden: Set<number>) => void} listeners.onHidden
   * @param {(classId: number | null) => void} listeners.onHighlight
   */
  constructor(list, absent, { onHidden, onHighlight }) {
    this.#list = list;
    this.#absent = absent;
    this.#onHidden = onHidden;
    this.#onHighlight = onHighlight;
  }

  /**
   * @param {object[]} masks Of the API's JSON answer.
   * @param {object[]} classes All classes of the model.
   */
  show(masks, classes) {
    this.#masks = [...masks].sort((a, b) => b.area - a.area);
    this.#list.replaceChildren(...this.#masks.map((mask) => this.#row(mask)));
    const found = new Set(masks.map((mask) => mask.class_id));
    const missing = classes.filter((entry) => !found.has(entry.index)).map((entry) => entry.name);
    this.#absent.textContent = missing.length ? `Not found: ${missing.join(", ")}` : "";
  }

  /** @param {boolean} shown Whether all classes of the photo are to be seen, or none. */
  setAll(shown) {
    this.hidden = shown ? new Set() : new Set(this.#masks.map((mask) => mask.class_id));
    for (const button of this.#list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(shown));
    }
    this.#onHidden(this.hidden);
  }

  #row(mask) {
    const id = mask.class_id;
    const swatch = element("span", { className: "swatch" });
    swatch.style.setProperty("--class", mask.color);
    const bar = element("span", { className: "bar" });
    bar.style.setProperty("--share", mask.fraction);
    bar.style.setProperty("--class", mask.color);
    const score = mask.score === undefined ? "" : `score ${mask.score.toFixed(2)}`;
    const button = element("button", { type: "button", className: "class" }, [
      swatch,
      element("span", { className: "name", textContent: mask.class_name }),
      element("span", { className: "score", textContent: score }),
      element("span", { className: "share", textContent: percent(mask.fraction) }),
      bar,
    ]);
    button.dataset.classId = id;
    button.setAttribute("aria-pressed", String(!this.hidden.has(id)));
    button.addEventListener("click", () => {
      const shown = this.hidden.has(id);
      if (shown) this.hidden.delete(id);
      else this.hidden.add(id);
      button.setAttribute("aria-pressed", String(shown));
      this.#onHidden(this.hidden);
      this.#onHighlight(shown ? id : null);
    });
    const highlight = () => this.#onHighlight(this.hidden.has(id) ? null : id);
    const release = () => this.#onHighlight(null);
    // A tap is no hover: it would leave the class highlighted after the finger has gone.
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && highlight());
    button.addEventListener("pointerleave", release);
    button.addEventListener("focus", () => button.matches(":focus-visible") && highlight());
    button.addEventListener("blur", release);
    return element("li", {}, [button]);
  }
}

/** @param {number} share 0 to 1. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1 %";
  return `${(share * 100).toFixed(1)} %`;
}
