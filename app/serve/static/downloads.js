/** Taking masks away: as a file, as a command, as Python. */

import { patiently, segment } from "./api.js";
import { byId, save } from "./elements.js";
import { curlLine, downloadName, FORMATS, pythonLines, queryFor } from "./snippets.js";

export class Downloads {
  #button = byId("download");
  #code = byId("code");
  #message = byId("download-message");
  #shown = null;

  constructor() {
    byId("format").addEventListener("change", () => this.#update());
    byId("languages").addEventListener("change", () => this.#update());
    this.#button.addEventListener("click", () => this.#download());
    byId("copy").addEventListener("click", () => this.#copy());
  }

  /**
   * Offer what is shown.
   *
   * @param {{file: Blob, name: string}} photo
   * @param {object[]} masks Classes that were found in it.
   * @param {Set<number>} hidden Classes that are not shown.
   * @param {string} scale
   */
  show(photo, masks, hidden, scale) {
    this.#shown = { photo, masks, hidden, scale };
    this.#update();
  }

  get #query() {
    const { masks, hidden, scale } = this.#shown;
    return queryFor(byId("format").value, scale, masks, hidden);
  }

  #update() {
    if (!this.#shown) return;
    const query = this.#query;
    const { name } = this.#shown.photo;
    byId("format-says").textContent = FORMATS[query.format].says;
    const language = document.querySelector('input[name="language"]:checked').value;
    this.#code.textContent = (language === "curl" ? curlLine : pythonLines)(name, query);
    const nothing = query.classes === "";
    this.#button.disabled = nothing;
    byId("copy").disabled = nothing;
    this.#message.textContent = nothing ? "All classes are hidden: show one to download it." : "";
  }

  async #download() {
    const { photo } = this.#shown;
    const query = this.#query;
    this.#button.setAttribute("aria-busy", "true");
    this.#message.textContent = "";
    try {
      const { body } = await patiently(
        () => segment(photo, query),
        (error, left) => {
          this.#message.textContent = `${error.message} Trying again in ${left} s.`;
        },
      );
      this.#message.textContent = "";
      save(body, downloadName(photo.name, query.format));
    } catch (error) {
      this.#message.textContent = error.message;
    } finally {
      this.#button.removeAttribute("aria-busy");
    }
  }

  async #copy() {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(this.#code.textContent);
    } catch {
      // Browsers keep the clipboard from pages without TLS: what is selected can be copied by hand.
      getSelection().selectAllChildren(this.#code);
      said = "Selected: copy it with Ctrl+C";
    }
    const button = byId("copy");
    button.textContent = said;
    setTimeout(() => (button.textContent = "Copy"), 2500);
  }
}
