// tus-js-client in Node: node tus.js ORDER, with the order in JSON. It prints a line of JSON for each event.
import { createReadStream, readFileSync, statSync } from "node:fs";
import { PassThrough } from "node:stream";
import * as tus from "tus-js-client";

const { endpoint, file, name, storage, deferred, options } = JSON.parse(process.argv[2]);
const tell = (event) => console.log(JSON.stringify(event));
// Of a stream that is a file's, this client would ask the length.
const input = deferred ? createReadStream(file).pipe(new PassThrough()) : readFileSync(file);

const upload = new tus.Upload(input, {
  endpoint,
  metadata: { filename: name, filetype: "image/png" },
  retryDelays: [0, 100, 300, 1000, 1000, 1000, 1000, 2000, 2000],
  ...(storage && {
    urlStorage: new tus.FileUrlStorage(storage),
    fingerprint: async () => `${file}-${statSync(file).size}`,
  }),
  onBeforeRequest: (request) => tell({ request: request.getMethod() }),
  onChunkComplete: (_, accepted) => tell({ accepted }),
  onSuccess: ({ lastResponse }) =>
    tell({ done: upload.url, image: lastResponse.getHeader("Content-Location") ?? null }),
  onError: (error) => tell({ error: String(error) }),
  ...options,
});
if (storage) {
  const [earlier] = await upload.findPreviousUploads();
  if (earlier) {
    upload.resumeFromPreviousUpload(earlier);
    tell({ resumed: earlier.uploadUrl });
  }
}
upload.start();
