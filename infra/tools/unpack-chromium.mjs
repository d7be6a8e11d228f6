// Unpacks the Chromium that the npm package carries, into the folder given, and prints the path of the binary.
import { copyFileSync, chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import chromium from "@sparticuz/chromium";

const folder = process.argv[2];
mkdirSync(folder, { recursive: true });
const target = join(folder, "chromium");
copyFileSync(await chromium.executablePath(), target);
chmodSync(target, 0o755);
console.log(target);
