#!/usr/bin/env bash
# For Dockerfile.cuda alone: puts mamba-ssm and causal-conv1d into /opt/fakesound, from wheels whose hashes are given, or
# compiled where nvcc is.
set -euo pipefail

install() {
  # --no-deps: mamba-ssm asks for a triton that would displace torch's. What it imports is in the lock.
  /opt/fakesound/bin/uv pip install --no-cache --compile-bytecode --python /opt/fakesound/bin/python --no-deps "$@"
}

export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda-12.8}
if [[ -x $CUDA_HOME/bin/nvcc ]]; then
  apt-get update
  apt-get install --yes --no-install-recommends g++ ninja-build
  # FORCE_BUILD: without it, both packages' own build steps look for a wheel on the network, which no hash has seen.
  export MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE
  install --no-build-isolation --require-hashes -r ../requirements/cuda.txt
else
  for name in MAMBA_SSM CAUSAL_CONV1D; do
    wheel=${name}_WHEEL hash=${name}_SHA256
    [[ -f ${!wheel} ]] || { echo "error: no images/wheels/${!wheel}: see images/README.md" >&2; exit 2; }
    [[ -n ${!hash} ]] || { echo "error: no wheel is installed without its hash: --build-arg $hash=..." >&2; exit 2; }
    sha256sum --check --strict - <<< "${!hash}  ${!wheel}"
  done
  install "./$MAMBA_SSM_WHEEL" "./$CAUSAL_CONV1D_WHEEL"
  # The rest of the lock. The two are there already; --no-build: and are not made anew.
  install --no-build --require-hashes -r ../requirements/cuda.txt \
    || { echo "error: these wheels are not of the versions that requirements/cuda.txt locks" >&2; exit 2; }
fi
