// @tus/server: node server.js PORT file|synced|s3 FOLDER-OR-ENDPOINT
//
// `file` is its file store as it is: what a PATCH brought is in the kernel's memory when it is answered.
// `synced` is the same with an fsync before each answer, as durable as Tintype's.
import { open } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { FileStore } from "@tus/file-store";
import { S3Store } from "@tus/s3-store";
import { Server } from "@tus/server";

class SyncedFileStore extends FileStore {
  async write(stream, id, offset) {
    const reached = await super.write(stream, id, offset);
    const file = await open(join(this.directory, id), "r+");
    await file.sync();
    await file.close();
    return reached;
  }
}

const [port, kind, place] = process.argv.slice(2);
const stores = {
  file: () => new FileStore({ directory: place }),
  synced: () => new SyncedFileStore({ directory: place }),
  s3: () =>
    new S3Store({
      s3ClientConfig: {
        bucket: "tus",
        endpoint: place,
        region: "us-east-1",
        forcePathStyle: true,
        requestChecksumCalculation: "WHEN_REQUIRED",
        responseChecksumValidation: "WHEN_REQUIRED",
        credentials: { accessKeyId: "bench", secretAccessKey: "bench-secret" },
      },
    }),
};
const tus = new Server({ path: "/files", datastore: stores[kind]() });
createServer((request, response) => tus.handle(request, response)).listen(Number(port), "127.0.0.1");
