/** What several modules do with the document. */

/** @param {string} id */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {object} properties Of the element.
 * @param {(Node | string)[]} children
 */
export function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/**
 * Decode a photo as it is shown: turned by its EXIF orientation, as the mask is.
 *
 * @param {Blob} file
 * @returns {Promise<ImageBitmap | null>} Null if the browser cannot.
 */
export async function decodePhoto(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null; // TIFF, 16 bits, broken, or no photo at all: the server says which
  }
}

/** @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  // Some browsers begin to read only after this turn.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
