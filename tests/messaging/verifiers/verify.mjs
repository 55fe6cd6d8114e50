// Verifies one webhook, given as JSON on standard input, with the package that is named; prints what it tells.
import { readFileSync } from "node:fs";

const { Webhook } = await import(process.argv[2]);
const { secret, body, headers } = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(new Webhook(secret).verify(body, headers)));
