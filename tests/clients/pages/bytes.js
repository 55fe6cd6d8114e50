// What all pages share: files out of what the test hands over.
export function fileOf({ name, type, data }) {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  return new File([bytes], name, { type });
}
