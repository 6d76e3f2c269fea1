/** Watches whether the server takes photos, and which model it runs. */

import { getHealth, getModel } from "./api.js";

/** Between two looks at a server that is ready, and at one that is not, in milliseconds. */
const CALM = 30_000;
const ANXIOUS = 2_000;

const SENTENCES = {
  connecting: "Connecting…",
  starting: "Starting: the server is loading its model",
  ready: "Ready",
  draining: "Shutting down: no new photos are taken",
  failed: "The server has failed and must be restarted",
  unreachable: "The server cannot be reached",
};

export class Monitor {
  #onChange;
  #timer = 0;
  #looking = null;

  /** @type {keyof typeof SENTENCES} */
  status = "connecting";

  /** @type {object | null} What `GET /model` said last. */
  model = null;

  /** @param {() => void} onChange Called when status or model have changed. */
  constructor(onChange) {
    this.#onChange = onChange;
    // Timers of pages in the background sleep; what they missed is looked up on return.
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    window.addEventListener("online", () => this.look());
  }

  get ready() {
    return this.status === "ready";
  }

  /** The status in words. */
  get sentence() {
    return SENTENCES[this.status] ?? this.status;
  }

  /** Look now; resolves once status and model are known. */
  look() {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(
        () => (document.hidden ? undefined : this.look()),
        this.ready ? CALM : ANXIOUS,
      );
    });
    return this.#looking;
  }

  async #look() {
    const before = [this.status, this.model];
    try {
      const health = await getHealth();
      // Its checkpoint may have been replaced while it served.
      if (health.model && health.model.version !== this.model?.version) {
        this.model = await getModel();
      }
      this.status = health.status;
    } catch {
      // The service itself always answers: whoever refuses is a proxy that has lost it.
      this.status = "unreachable";
    }
    if (before[0] !== this.status || before[1] !== this.model) this.#onChange();
  }
}
