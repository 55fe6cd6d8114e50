// @tus/server with its file store: node server.js FOLDER. It prints where it listens.
import { createServer } from 'node:http'
import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const tus = new Server({
  path: '/files',
  datastore: new FileStore({ directory: process.argv[2], expirationPeriodInMilliseconds: 86_400_000 }),
  maxSize: 52_428_800,
})
const listener = createServer((request, response) => tus.handle(request, response))
listener.listen(0, '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${listener.address().port}/files`)
})
