// Writes the ABIs and creation code that the platform ships, from forge's build. `--check` only compares.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const target = join(root, "src/faas/chain/abi");
const contracts = ["FaaSBlueprint", "DevTangle", "DevStaking", "DevStatusRegistry"];
const check = process.argv.includes("--check");
let stale = 0;

for (const name of contracts) {
  const artifact = JSON.parse(readFileSync(join(root, `contracts/out/${name}.sol/${name}.json`), "utf8"));
  const abi = artifact.abi.map((entry) => `    ${JSON.stringify(entry)}`).join(",\n");
  const text = `{\n  "contractName": "${name}",\n  "abi": [\n${abi}\n  ],\n  "bytecode": "${artifact.bytecode.object}"\n}\n`;
  const path = join(target, `${name}.json`);
  if (!check) {
    writeFileSync(path, text);
    continue;
  }
  let current = "";
  try {
    current = readFileSync(path, "utf8");
  } catch {}
  if (current !== text) {
    console.error(`${name}.json is stale: run scripts/contracts.sh abi`);
    stale += 1;
  }
}
process.exit(stale ? 1 : 0);
