/** The photo with its mask over it, on one canvas: zoom, pan, opacity, which classes are seen. */

/** Largest zoom: screen pixels a photo's pixel is wide. */
const CLOSEST = 64;

/** One press of a zoom key or button. */
const STEP = 1.5;

/** One press of an arrow key, as a share of the view. */
const PAN = 0.1;

/** Photos are drawn smoothly up to this zoom; beyond it people want to see pixels. */
const SMOOTH_UP_TO = 2;

/** What is left of other classes while one is highlighted, of 255. */
const DIMMED = 28;

export class View {
  #canvas;
  #context;
  #photo = null;
  #size = { width: 0, height: 0 };
  #labels = null; // column by column, as the mask's canvas is
  #runs = new Map();
  #colors = new Map();
  #mask = document.createElement("canvas");
  #opacity = 0.6;
  #hidden = new Set();
  #highlighted = null;
  #zoom = 1; // screen pixels (CSS) per photo pixel
  // Kept, as asking for them would lay the page out before the mask is drawn.
  #width = 0;
  #height = 0;
  #center = { x: 0, y: 0 }; // photo pixel in the middle of the view
  #fitted = true;
  #frame = 0;
  #onZoom;
  #onPoint;

  /**
   * @param {HTMLElement} viewport Takes focus, keys, wheel and fingers; holds the canvas.
   * @param {object} listeners
   * @param {(zoom: number) => void} listeners.onZoom
   * @param {(point: {x: number, y: number, label: number} | null) => void} listeners.onPoint The
   *   photo's pixel under the pointer.
   */
  constructor(viewport, { onZoom, onPoint }) {
    this.viewport = viewport;
    this.#canvas = viewport.querySelector("canvas");
    this.#context = this.#canvas.getContext("2d");
    this.#onZoom = onZoom;
    this.#onPoint = onPoint;
    new ResizeObserver(([{ contentRect }]) => this.#resize(contentRect)).observe(viewport);
    viewport.addEventListener("keydown", (event) => this.#key(event));
    viewport.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#followPointers();
  }

  /**
   * Show another photo, whole.
   *
   * @param {ImageBitmap | null} photo Null if the browser cannot decode it.
   */
  showPhoto(photo) {
    this.#photo = photo;
    this.#labels = null;
    this.#highlighted = null;
    this.#size = photo ?? { width: 0, height: 0 };
    this.fit();
  }

  /**
   * Put a mask over the photo, at once.
   *
   * @param {{labels: Uint8Array, runs: Map<number, number[]>}} masks As `decodeMasks` gives them.
   * @param {{width: number, height: number}} size
   * @param {Map<number, string>} colors `#rrggbb` by class index.
   */
  showMask({ labels, runs }, size, colors) {
    const resized = size.width !== this.#size.width || size.height !== this.#size.height;
    this.#labels = labels;
    this.#runs = runs;
    this.#colors = colors;
    this.#size = { width: size.width, height: size.height };
    this.#paintMask();
    if (resized) this.fit();
    this.#draw();
  }

  /** @param {number} opacity Of the mask, 0 to 1. */
  setOpacity(opacity) {
    this.#opacity = opacity;
    this.#redraw();
  }

  /** @param {Set<number>} classIds Classes whose mask is not seen. */
  setHidden(classIds) {
    this.#hidden = classIds;
    this.#paintMask();
    this.#redraw();
  }

  /** @param {number | null} classId The class that stands out; null for none. */
  highlight(classId) {
    if (classId === this.#highlighted) return;
    this.#highlighted = classId;
    this.#paintMask();
    this.#redraw();
  }

  /** Show the whole photo, as large as there is room. */
  fit() {
    this.#fitted = true;
    this.#center = { x: this.#size.width / 2, y: this.#size.height / 2 };
    this.#setZoom(this.#fittingZoom());
  }

  /** Show the photo's pixels as large as the screen's. */
  actualSize() {
    this.zoomTo(1);
  }

  zoomIn() {
    this.zoomTo(this.#zoom * STEP);
  }

  zoomOut() {
    this.zoomTo(this.#zoom / STEP);
  }

  /**
   * @param {number} zoom Screen pixels per photo pixel.
   * @param {{x: number, y: number}} [around] The point of the view that stays where it is.
   */
  zoomTo(zoom, around = { x: this.#width / 2, y: this.#height / 2 }) {
    const smallest = Math.min(1, this.#fittingZoom());
    const wanted = Math.min(CLOSEST, Math.max(smallest, zoom));
    const fixed = this.#photoPoint(around);
    this.#fitted = wanted <= smallest && smallest < 1;
    this.#center = {
      x: fixed.x - (around.x - this.#width / 2) / wanted,
      y: fixed.y - (around.y - this.#height / 2) / wanted,
    };
    this.#setZoom(wanted);
  }

  #setZoom(zoom) {
    this.#zoom = zoom;
    this.#keepInSight();
    // At rest a finger scrolls the page; once zoomed in, it moves the photo.
    this.viewport.classList.toggle("zoomed", zoom > this.#fittingZoom() * 1.001);
    this.#onZoom(zoom);
    this.#redraw();
  }

  #fittingZoom() {
    const { width, height } = this.#size;
    if (!width || !this.#width || !this.#height) return 1;
    return Math.min(this.#width / width, this.#height / height);
  }

  /** The photo covers the view where it is larger, and lies in its middle where it is not. */
  #keepInSight() {
    const keep = (center, size, view) => {
      const half = view / 2 / this.#zoom;
      return size <= 2 * half ? size / 2 : Math.min(size - half, Math.max(half, center));
    };
    this.#center.x = keep(this.#center.x, this.#size.width, this.#width);
    this.#center.y = keep(this.#center.y, this.#size.height, this.#height);
  }

  #photoPoint({ x, y }) {
    return {
      x: this.#center.x + (x - this.#width / 2) / this.#zoom,
      y: this.#center.y + (y - this.#height / 2) / this.#zoom,
    };
  }

  #panBy(dx, dy) {
    this.#center.x -= dx / this.#zoom;
    this.#center.y -= dy / this.#zoom;
    this.#keepInSight();
    this.#redraw();
  }

  #resize({ width, height }) {
    this.#width = width;
    this.#height = height;
    if (this.#fitted) this.fit();
    else this.#setZoom(this.#zoom);
    this.#draw(); // now: a canvas that changes its size is empty until it is drawn
  }

  /** Paint the runs of all classes that are seen; the canvas lies on its side, as they do. */
  #paintMask() {
    if (!this.#labels) return;
    const { width, height } = this.#size;
    const pixels = new Uint32Array(width * height);
    for (const [classId, runs] of this.#runs) {
      if (this.#hidden.has(classId)) continue;
      const rgb = Number.parseInt(this.#colors.get(classId).slice(1), 16);
      const dimmed = this.#highlighted !== null && this.#highlighted !== classId;
      const alpha = dimmed ? DIMMED : 255;
      const [red, green, blue] = [rgb >> 16, (rgb >> 8) & 255, rgb & 255];
      // Four bytes at once; every browser runs on little-endian machines.
      const color = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
      for (let at = 0; at < runs.length; at += 2) pixels.fill(color, runs[at], runs[at + 1]);
    }
    this.#mask.width = height;
    this.#mask.height = width;
    const image = new ImageData(new Uint8ClampedArray(pixels.buffer), height, width);
    this.#mask.getContext("2d").putImageData(image, 0, 0);
  }

  #redraw() {
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const density = window.devicePixelRatio || 1;
    const width = Math.round(this.#width * density);
    const height = Math.round(this.#height * density);
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    const context = this.#context;
    context.clearRect(0, 0, width, height);
    if (!this.#size.width) return;
    const scale = this.#zoom * density;
    // Whole screen pixels: at 100 % each pixel of the photo is then exactly one of the screen.
    const box = [
      Math.round(width / 2 - this.#center.x * scale),
      Math.round(height / 2 - this.#center.y * scale),
      Math.round(this.#size.width * scale),
      Math.round(this.#size.height * scale),
    ];
    // What is reduced needs every pixel; what is enlarged gains little, and takes ten times as long.
    context.imageSmoothingQuality = scale < 1 ? "high" : "low";
    if (this.#photo) {
      context.imageSmoothingEnabled = scale < SMOOTH_UP_TO;
      context.drawImage(this.#photo, ...box);
    }
    if (this.#labels) {
      // Enlarged smoothly, borders would show colours of classes that are not there.
      context.imageSmoothingEnabled = scale < 1;
      // Highlighting works at any opacity, even at none.
      context.globalAlpha =
        this.#highlighted === null ? this.#opacity : Math.max(this.#opacity, 0.75);
      // Rows of the mask's canvas are columns of the photo.
      const [left, top, wide, high] = box;
      const { width: columns, height: rows } = this.#size;
      context.setTransform(0, high / rows, wide / columns, 0, left, top);
      context.drawImage(this.#mask, 0, 0);
      context.resetTransform();
      context.globalAlpha = 1;
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = PAN * Math.min(this.#width, this.#height);
    const actions = {
      "+": () => this.zoomIn(),
      "=": () => this.zoomIn(),
      "-": () => this.zoomOut(),
      0: () => this.fit(),
      1: () => this.actualSize(),
      ArrowLeft: () => this.#panBy(step, 0),
      ArrowRight: () => this.#panBy(-step, 0),
      ArrowUp: () => this.#panBy(0, step),
      ArrowDown: () => this.#panBy(0, -step),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  #wheel(event) {
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    // A pinch on a touchpad arrives as a wheel with Ctrl, in small steps.
    const factor = Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016));
    // Nothing left to zoom out of: the wheel scrolls the page, as everywhere else.
    if (factor < 1 && this.#fitted && !event.ctrlKey) return;
    event.preventDefault();
    this.zoomTo(this.#zoom * factor, { x: event.offsetX, y: event.offsetY });
  }

  /** One pointer pans, two pinch. */
  #followPointers() {
    const down = new Map();
    const viewport = this.viewport;
    const place = (event) => ({ x: event.offsetX, y: event.offsetY });
    viewport.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      viewport.setPointerCapture(event.pointerId);
      down.set(event.pointerId, place(event));
      viewport.classList.add("panning");
    });
    viewport.addEventListener("pointermove", (event) => {
      const now = place(event);
      const before = down.get(event.pointerId);
      if (!before) {
        this.#point(now);
        return;
      }
      if (down.size === 1) {
        this.#panBy(now.x - before.x, now.y - before.y);
      } else if (down.size === 2) {
        const [other] = [...down].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
        const spread = (at) => Math.hypot(at.x - other.x, at.y - other.y);
        this.#panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
        const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
        this.zoomTo((this.#zoom * spread(now)) / Math.max(1, spread(before)), middle);
      }
      down.set(event.pointerId, now);
    });
    const up = (event) => {
      down.delete(event.pointerId);
      if (!down.size) viewport.classList.remove("panning");
    };
    viewport.addEventListener("pointerup", up);
    viewport.addEventListener("pointercancel", up);
    viewport.addEventListener("pointerleave", () => this.#onPoint(null));
  }

  #point(place) {
    const { width, height } = this.#size;
    const point = this.#photoPoint(place);
    const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    this.#onPoint(inside && this.#labels ? { x, y, label: this.#labels[x * height + y] } : null);
  }
}
