#!/usr/bin/env bash
# The boundaries of docs/architecture.md: the core knows neither Python nor an async runtime, one crate names pyo3,
# and one folder names the bindings of ONNX Runtime.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

forbid() { # forbid WHAT LINES: fail where LINES is not empty
    if [ -n "$2" ]; then
        printf '%s:\n%s\n' "$1" "$2" >&2
        failed=1
    fi
}

tree=$(cargo tree --locked --package inferlite-core --edges normal,build --target all --prefix none)
forbid 'inferlite-core may depend on neither pyo3, tokio nor actix' \
    "$(grep -E '^(pyo3|numpy|tokio|actix)([-_][a-z]+)* ' <<< "$tree" | sort -u || true)"

# A crate that depends on pyo3 and belongs to the workspace has its path in the tree.
forbid 'only inferlite-py may depend on pyo3' \
    "$(cargo tree --locked --workspace --invert pyo3 --depth 1 --prefix none | grep -F "($PWD" | grep -v '^inferlite-py ' || true)"

forbid 'only rust/inferlite-core/src/runtime/ort may name ort_sys' \
    "$(grep -rnE '\bort_sys::' rust --include='*.rs' | grep -vE '^rust/inferlite-core/src/runtime/ort(/|\.rs:)' || true)"

[ "$failed" -eq 0 ] && echo "layers: as documented"
exit "$failed"
