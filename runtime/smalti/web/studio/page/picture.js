// A picture: its file's very bytes, and what of it is shown.

/** Open a file. `about` has name, recipe, seed and label where they are known. Rejects for what is no picture. */
export async function opened(blob, about = {}) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  return { blob, bitmap, width: bitmap.width, height: bitmap.height, name: null, recipe: null, seed: null, label: null, title: "", ...about };
}

/** Return a picture of at most `pixels` pixels. What is too large is made smaller, and says so. */
export async function within(picture, pixels) {
  const share = Math.sqrt(pixels / (picture.width * picture.height));
  if (share >= 1) return picture;
  const width = Math.floor(picture.width * share), height = Math.floor(picture.height * share);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.bitmap, 0, 0, width, height);
  const made = await opened(await canvas.convertToBlob({ type: "image/png" }), { title: picture.title });
  return { ...made, reduced: `${picture.width}×${picture.height}` };
}

/** Offer a picture to be kept on disk. */
export function download(picture) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(picture.blob);
  link.download = picture.name ?? "smalti.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Return the middle of a bundle's resolutions that suits an image of its own size best. */
export function suited(bundle, picture) {
  const far = ({ pixels }) => Math.abs(Math.log(pixels / Math.sqrt(picture.width * picture.height)));
  return bundle.resolutions.reduce((best, one) => (far(one) < far(best) ? one : best)).pixels;
}
