// FilePond and Dropzone, as their own documentation sets them up.
import Dropzone from "dropzone";
import * as FilePond from "filepond";
import { fileOf } from "../bytes.js";

window.pond = (url, files, options) =>
  new Promise((resolve) => {
    const pond = FilePond.create(document.querySelector("input"), {
      server: url,
      allowMultiple: true,
      ...options,
    });
    window.thePond = pond;
    const results = [];
    const note = (error, file) => {
      results.push({ name: file.filename, id: file.serverId, error: error && String(error.code ?? error.body) });
      if (results.length === files.length) resolve(results);
    };
    pond.on("processfile", note);
    pond.addFiles(files.map(fileOf));
  });

window.revert = () =>
  new Promise((resolve) => {
    window.thePond.on("processfilerevert", () => resolve(true));
    window.thePond.removeFile(window.thePond.getFiles()[0].id, { revert: true });
  });

window.load = (url, id, type) =>
  new Promise((resolve) => {
    const pond = FilePond.create(document.querySelector("input"), { server: url });
    pond.on("addfile", async (error, file) =>
      resolve(error ? { error: String(error.code) } : { name: file.filename, size: file.fileSize }),
    );
    pond.addFile(id, { type });
  });

window.drop = (url, files, options) =>
  new Promise((resolve) => {
    const zone = new Dropzone(document.querySelector("div"), { url, ...options });
    const results = [];
    const note = (name, told) => {
      results.push({ name, ...told });
      if (results.length === files.length) resolve(results);
    };
    zone.on("success", (file, answer) => {
      note(file.name, { answer: file.xhr ? JSON.parse(file.xhr.responseText || "null") : answer });
    });
    zone.on("error", (file, message) => note(file.name, { error: message.error ?? message }));
    files.map(fileOf).forEach((each) => zone.addFile(each));
  });
