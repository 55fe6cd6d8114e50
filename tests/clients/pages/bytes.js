// What all pages share: files out of what the test hands over. A file that is chosen again is the same one.
export function fileOf({ name, type, data }) {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  return new File([bytes], name, { type, lastModified: 1_790_000_000_000 });
}
