// tus-js-client, @uppy/tus and @uppy/xhr-upload, as their own documentation sets them up.
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";
import XHRUpload from "@uppy/xhr-upload";
import * as tus from "tus-js-client";
import { fileOf } from "../bytes.js";

window.sent = 0;
const requests = [];

// Resolves with what came of it. Where the network goes, it waits for it to come back, and goes on.
window.uploadTus = (endpoint, given, options) =>
  new Promise((resolve) => {
    const file = fileOf(given);
    const started = async (upload) => {
      const [earlier] = await upload.findPreviousUploads();
      if (earlier) upload.resumeFromPreviousUpload(earlier);
      upload.start();
    };
    const upload = new tus.Upload(file, {
      endpoint,
      metadata: { filename: file.name, filetype: file.type },
      retryDelays: [0, 100, 300, 1000, 1000, 1000, 1000, 2000, 2000],
      onBeforeRequest: (request) => requests.push(request.getMethod()),
      onChunkComplete: (_, accepted) => (window.sent = accepted),
      onSuccess: ({ lastResponse }) =>
        resolve({ url: upload.url, image: lastResponse.getHeader("Content-Location"), requests }),
      onError: (error) => {
        if (navigator.onLine) resolve({ error: String(error), requests });
        else window.addEventListener("online", () => started(upload), { once: true });
      },
      ...options,
    });
    started(upload);
  });

// A stream, of which nobody knows the length before its end.
window.uploadTusStream = (endpoint, given, options) =>
  new Promise((resolve) => {
    const file = fileOf(given);
    const upload = new tus.Upload(file.stream().getReader(), {
      endpoint,
      metadata: { filename: file.name, filetype: file.type },
      uploadLengthDeferred: true,
      onBeforeRequest: (request) => requests.push(request.getMethod()),
      onSuccess: ({ lastResponse }) => resolve({ image: lastResponse.getHeader("Content-Location"), requests }),
      onError: (error) => resolve({ error: String(error), requests }),
      ...options,
    });
    upload.start();
  });

async function run(uppy, files) {
  uppy.on("progress", (percent) => (window.percent = percent));
  const refusals = [];
  uppy.on("upload-error", (_, error, response) =>
    refusals.push({ message: String(error), body: response?.body ?? error.request?.responseText ?? null }),
  );
  for (const each of files.map(fileOf)) uppy.addFile({ name: each.name, type: each.type, data: each });
  const { successful, failed } = await uppy.upload();
  return {
    successful: successful.map((file) => ({ name: file.name, url: file.uploadURL, answer: file.response?.body })),
    failed: failed.map((file) => ({ name: file.name, error: String(file.error) })),
    refusals,
    requests,
  };
}

window.uppyTus = (endpoint, files, options) =>
  run(
    new Uppy().use(Tus, {
      endpoint,
      retryDelays: [0, 100, 300, 1000, 1000],
      onBeforeRequest: (request) => requests.push(request.getMethod()),
      ...options,
    }),
    files,
  );

window.uppyXhr = (endpoint, files, options) =>
  run(
    new Uppy().use(XHRUpload, { endpoint, onBeforeRequest: (xhr) => requests.push(String(xhr.readyState)), ...options }),
    files,
  );
