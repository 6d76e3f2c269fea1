/**
 * The service's HTTP interface, as its own page calls it.
 *
 * URLs are relative to where this file came from, so the page works behind any proxy prefix.
 */

export const BASE = new URL("..", import.meta.url);

/** How often a photo is sent again when the server is busy, before the page gives up. */
const ATTEMPTS = 12;

/** The server refused; `message` is its sentence about this very request. */
export class RefusedError extends Error {
  /**
   * @param {string} sentence
   * @param {number} status HTTP status.
   * @param {number | null} retryAfterS When to try again, in seconds; null if that is no use.
   */
  constructor(sentence, status, retryAfterS) {
    super(sentence);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** No answer came: the server or the network is gone, or the connection broke. */
export class UnreachableError extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

/** @returns {Promise<object>} The summary of `GET /health`. */
export async function getHealth() {
  return (await request("health", { cache: "no-store" })).json();
}

/** @returns {Promise<object>} What `GET /model` says: name, version, classes. */
export async function getModel() {
  return (await request("model", { cache: "no-store" })).json();
}

/**
 * The address of a segmentation.
 *
 * @param {Record<string, string>} query Parameters of `POST /segment`.
 */
export function segmentUrl(query) {
  const url = new URL("segment", BASE);
  // Commas may stand in a query as they are, and `classes=car,road` is easier to read.
  url.search = new URLSearchParams(query).toString().replaceAll("%2C", ",");
  return url;
}

/**
 * Send a photo in a form, as curl does: formats that name files get its name from there.
 *
 * @param {{file: Blob, name: string}} photo
 * @param {Record<string, string>} query Parameters of `POST /segment`.
 * @param {AbortSignal} [signal]
 * @returns {Promise<{body: Blob, stages: {name: string, ms: number}[]}>} The API's own bytes, and
 *   what its Server-Timing says.
 */
export async function segment(photo, query, signal) {
  const body = new FormData();
  body.append("image", photo.file, photo.name);
  const answer = await request(segmentUrl(query), { method: "POST", body, signal });
  try {
    return { body: await answer.blob(), stages: stagesOf(answer.headers.get("Server-Timing")) };
  } catch (error) {
    throw error.name === "AbortError" ? error : new UnreachableError();
  }
}

/**
 * Do something again while the server says when: 429 and 503 with Retry-After.
 *
 * @template T
 * @param {() => Promise<T>} attempt
 * @param {(error: RefusedError, secondsLeft: number) => void} onWait Called every second.
 * @param {AbortSignal} [signal] Ends the waiting.
 * @returns {Promise<T>}
 */
export async function patiently(attempt, onWait, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof RefusedError) || error.retryAfterS === null || tries === ATTEMPTS) {
        throw error;
      }
      for (let left = Math.max(1, Math.ceil(error.retryAfterS)); left > 0; left--) {
        onWait(error, left);
        await pause(1000, signal);
      }
    }
  }
}

/** @param {number} ms @param {AbortSignal} [signal] */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/** @param {string | URL} path @param {RequestInit} options */
async function request(path, options) {
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new UnreachableError();
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** @param {Response} answer */
async function refusal(answer) {
  const seconds = Number.parseFloat(answer.headers.get("Retry-After") ?? "");
  const again = answer.status === 429 || answer.status === 503;
  const retryAfterS = again && Number.isFinite(seconds) ? seconds : null;
  if (answer.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    const problem = await answer.json().catch(() => null);
    if (problem?.detail) return new RefusedError(problem.detail, answer.status, retryAfterS);
  }
  return new RefusedError(proxySentence(answer.status), answer.status, retryAfterS);
}

/** The service always says what is wrong. A proxy before it may answer with a page of its own. */
function proxySentence(status) {
  if (status === 413) return "The file is larger than the proxy before this server lets through.";
  if (status >= 502 && status <= 504) {
    return `The proxy before this server cannot reach it (status ${status}).`;
  }
  return `The request was refused without a reason (status ${status}).`;
}

/** @param {string | null} header Such as `decode;dur=1.20, forward;dur=130.11`. */
function stagesOf(header) {
  const found = (header ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g);
  return [...found].map(([, name, ms]) => ({ name, ms: Number(ms) }));
}
