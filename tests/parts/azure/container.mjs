// node container.mjs URL ACCOUNT KEY CONTAINER: makes the container unless it is there.
import { createHmac } from "node:crypto";

const [url, account, key, container] = process.argv.slice(2);
const date = new Date().toUTCString();
const version = "2021-08-06";
// Shared key signature: the method, eleven empty standard headers, the x-ms headers, the resource. An emulator's path starts
// with the account, so the resource has it twice.
const text =
  "PUT" + "\n".repeat(12) + `x-ms-date:${date}\nx-ms-version:${version}\n/${account}/${account}/${container}\nrestype:container`;
const signature = createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
const answer = await fetch(`${url}/${container}?restype=container`, {
  method: "PUT",
  headers: { "x-ms-date": date, "x-ms-version": version, Authorization: `SharedKey ${account}:${signature}` },
});
if (answer.status !== 201 && answer.status !== 409) {
  console.error(`could not make the container ${container}: ${answer.status} ${await answer.text()}`);
  process.exit(1);
}
