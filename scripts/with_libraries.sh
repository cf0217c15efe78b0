#!/usr/bin/env bash
# with_libraries.sh PYTHON COMMAND...: run COMMAND where a Rust test finds the shared libraries of that interpreter
# (libpython, which a test of the binding links, and the ONNX Runtime that the tests load).
set -euo pipefail
python=$1
shift
folder=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR") or "")')
library=$("$python" - <<'PYTHON'
from importlib.util import find_spec
from pathlib import Path

spec = find_spec("onnxruntime")
found = sorted(Path(spec.origin).parent.glob("capi/libonnxruntime*")) if spec and spec.origin else []
print(next((path for path in found if "providers" not in path.name), ""))
PYTHON
)
export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export DYLD_FALLBACK_LIBRARY_PATH="$LD_LIBRARY_PATH"
[ -z "$library" ] || export INFERLITE_ORT_LIBRARY="$library"
exec "$@"
