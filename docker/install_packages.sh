#!/bin/sh
# Install packages into /opt/latentry with the arguments of `uv pip install`, without what no process reads at run time: tests of
# packages, headers, static libraries, programs for developers. Bytecode is compiled here, because user 10001 cannot write it.
set -eu
# Where the Dockerfile mounts a cache. The image sets XDG_CACHE_HOME, which uv would use otherwise.
export PATH=/opt/tools/bin:$PATH UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy
site=$(echo /opt/latentry/lib/python3*/site-packages)
uv pip install --python /opt/latentry "$@"
find "$site" -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
rm -rf "$site"/pyarrow/include "$site"/pyarrow/src "$site"/torch/include "$site"/torch/share
find "$site" \( -name '*.a' -o -name '*.pyx' -o -name '*.pxd' \) -delete
/opt/latentry/bin/python -m compileall -q -j 0 "$site" || true  # a template of a package may be no Python
