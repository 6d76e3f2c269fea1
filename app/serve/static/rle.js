/**
 * COCO run lengths -> runs and label map.
 *
 * Of the API's formats this one says everything that the page shows: exact class indices, shares,
 * scores. A mask is read column by column; its counts are the lengths of alternating runs, zeros
 * first (`maskApi.c` of https://github.com/cocodataset/cocoapi).
 */

/** The label of pixels that belong to no class. */
export const VOID = 255;

/**
 * @param {string} text COCO's compressed string.
 * @returns {number[]} Run lengths.
 */
export function decompress(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let place = 1;
    let bits;
    do {
      bits = text.charCodeAt(at++) - 48;
      value += (bits & 0x1f) * place;
      place *= 32;
    } while (bits & 0x20);
    if (bits & 0x10) value -= place; // the sign of the last group
    // From the fourth on, a count is written as its difference to the one before the last.
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/**
 * Decode all masks of an answer. Everything stays in COCO's order, column by column: then runs can
 * be painted as a whole, and no loop over pixels has to be fast.
 *
 * @param {{image: {width: number, height: number}, masks: object[]}} answer `format=rle`.
 * @returns {{labels: Uint8Array, runs: Map<number, number[]>}} Class indices, `VOID` where there is
 *   none; for each class the starts and ends of its runs, in turns.
 */
export function decodeMasks(answer) {
  const labels = new Uint8Array(answer.image.width * answer.image.height).fill(VOID);
  const runs = new Map();
  for (const mask of answer.masks) {
    const bounds = [];
    let end = 0;
    for (const count of decompress(mask.rle.counts)) bounds.push((end += count));
    if (bounds.length % 2) bounds.pop(); // zeros after the last run
    for (let at = 0; at < bounds.length; at += 2) {
      labels.fill(mask.class_id, bounds[at], bounds[at + 1]);
    }
    runs.set(mask.class_id, bounds);
  }
  return { labels, runs };
}
