"""Packages, and the files a registry of each tool serves them by: one small `demo` that says 42.

`SERVER` serves such files on a sandbox's own loopback and writes down what it was asked for.
"""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass

PORT = 8123
URL = f"http://127.0.0.1:{PORT}"

SERVER = f"""
import functools, http.server, os
class Registry(http.server.SimpleHTTPRequestHandler):
    extensions_map = {{".json": "application/json", "": "application/octet-stream"}}
    def do_GET(self):
        with open("/tmp/requests", "a") as log:
            print(self.path, file=log)
        if os.path.isdir("registry" + self.path):
            self.path += "/index.html"
        super().do_GET()
    def end_headers(self):
        self.send_header("Cache-Control", "max-age=86400")
        super().end_headers()
    def log_message(self, *_): pass
served = functools.partial(Registry, directory="registry")
http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), served).serve_forever()
"""

RUN = f"""
: > /tmp/requests
python3 -I server.py & server=$!
until python3 -Ic 'import socket; socket.create_connection(("127.0.0.1", {PORT}))' 2>/dev/null
do sleep 0.05; done
cd project
eval "$USE"; code=$?
kill $server
echo "requests: $(wc -l < /tmp/requests)"
sed 's/^/asked for: /' /tmp/requests >&2
exit $code
"""


@dataclass(frozen=True)
class Packaging:
    """One tool: what its registry serves, a project that needs `demo`, and how it is used."""

    tool: str
    served: dict[str, bytes]
    project: dict[str, str]
    use: str
    """Installs `demo` and prints what it says."""

    def archive(self) -> bytes:
        """All of it, for a sandbox's working directory."""
        files = {"server.py": SERVER.encode()}
        files |= {f"registry/{name}": content for name, content in self.served.items()}
        files |= {f"project/{name}": content.encode() for name, content in self.project.items()}
        return packed(files)


def packed(files: dict[str, bytes]) -> bytes:
    """A tar of files, the same bytes every time."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def npm() -> Packaging:
    about = json.dumps({"name": "demo", "version": "1.0.0", "main": "index.js"})
    files = {"package/package.json": about, "package/index.js": "module.exports = 42\n"}
    tarball = gzip.compress(packed({k: v.encode() for k, v in files.items()}), mtime=0)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    dist = {"tarball": f"{URL}/demo/-/demo-1.0.0.tgz", "integrity": integrity}
    version = {"name": "demo", "version": "1.0.0", "main": "index.js", "dist": dist}
    document = {"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    return Packaging(
        "npm",
        {"demo/index.html": json.dumps(document).encode(), "demo/-/demo-1.0.0.tgz": tarball},
        {
            "package.json": json.dumps({"name": "main", "dependencies": {"demo": "^1.0.0"}}),
            ".npmrc": f"registry={URL}/\naudit=false\nfund=false\nupdate-notifier=false\n",
        },
        "npm install --loglevel=error && node -p \"'it says ' + require('demo')\"",
    )


def cargo() -> Packaging:
    manifest = '[package]\nname = "demo"\nversion = "1.0.0"\nedition = "2021"\n'
    source = "pub fn answer() -> u32 { 42 }\n"
    inside = {"demo-1.0.0/Cargo.toml": manifest, "demo-1.0.0/src/lib.rs": source}
    crate = gzip.compress(packed({k: v.encode() for k, v in inside.items()}), mtime=0)
    digest = hashlib.sha256(crate).hexdigest()
    entry = {"name": "demo", "vers": "1.0.0", "deps": [], "cksum": digest, "features": {}}
    return Packaging(
        "cargo",
        {
            "index/config.json": json.dumps({"dl": URL + "/crates/{crate}-{version}"}).encode(),
            "index/de/mo/demo": json.dumps({**entry, "yanked": False}).encode() + b"\n",
            "crates/demo-1.0.0": crate,
        },
        {
            "Cargo.toml": '[package]\nname = "main"\nversion = "0.1.0"\nedition = "2021"\n'
            '[dependencies]\ndemo = "1.0.0"\n',
            "Cargo.lock": "version = 3\n"
            '[[package]]\nname = "main"\nversion = "0.1.0"\ndependencies = ["demo"]\n'
            '[[package]]\nname = "demo"\nversion = "1.0.0"\n'
            'source = "registry+https://github.com/rust-lang/crates.io-index"\n'
            f'checksum = "{digest}"\n',
            "src/lib.rs": "pub fn twice() -> u32 { 2 * demo::answer() }\n",
            ".cargo/config.toml": '[source.crates-io]\nreplace-with = "near"\n'
            f'[source.near]\nregistry = "sparse+{URL}/index/"\n',
        },
        # Not `cargo fetch`: that asks the compiler for its version, and there is none in the image.
        "cargo vendor --locked --respect-source-config -q > vendored.toml"
        " && sed -n 's/.*{ \\(.*\\) }/it says \\1/p' vendor/demo/src/lib.rs",
    )


def go(version: str = "v1.0.0", answer: int = 42) -> Packaging:
    module = "example.test/demo"
    mod = f"module {module}\n\ngo 1.19\n"
    inside = {"go.mod": mod, "demo.go": f"package demo\n\nconst Answer = {answer}\n"}
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, content in inside.items():
            archive.writestr(f"{module}@{version}/{name}", content)
    whole = go_sum({f"{module}@{version}/{name}": content for name, content in inside.items()})
    at = f"{module}/@v/{version}"
    return Packaging(
        "go",
        {
            f"{module}/@v/list": f"{version}\n".encode(),
            f"{at}.info": json.dumps({"Version": version}).encode(),
            f"{at}.mod": mod.encode(),
            f"{at}.zip": zipped.getvalue(),
        },
        {
            "go.mod": f"module example.test/main\n\ngo 1.19\n\nrequire {module} {version}\n",
            "go.sum": f"{module} {version} {whole}\n"
            f"{module} {version}/go.mod {go_sum({'go.mod': mod})}\n",
            "main.go": f'package twice\n\nimport "{module}"\n\nconst Twice = 2 * demo.Answer\n',
        },
        f"export GOPROXY={URL} GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0;"
        " go build . && sed -n 's/const Answer =/it says/p'"
        f" $(go list -m -f '{{{{.Dir}}}}' {module})/demo.go",
    )


def go_sum(files: dict[str, str]) -> str:
    """What go.sum says of files: the hash of the list of their hashes."""
    lines = [f"{hashlib.sha256(files[n].encode()).hexdigest()}  {n}\n" for n in sorted(files)]
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


PACKAGINGS = {one.tool: one for one in (npm(), cargo(), go())}
