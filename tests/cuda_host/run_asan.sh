#!/usr/bin/env bash
# Runs the CUDA kernels on the CPU under the address and undefined-behaviour sanitizers.
# Needs Python with numpy, pytest and mpmath, and g++ (or another GCC in CXX).
set -euo pipefail
cd "$(dirname "$0")/../.."

cxx=${CXX:-g++}
preload=$($cxx -print-file-name=libasan.so)
if [ ! -e "$preload" ]; then
  echo "$cxx has no libasan.so" >&2
  exit 1
fi
export CXX="$cxx" PYTHONPATH="$PWD/python:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}"
export KEXUE_CUDA_HOST_FLAGS="-g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
export PYTHONMALLOC=malloc # small arrays, too, get red zones
export ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0:${ASAN_OPTIONS:-}"
LD_PRELOAD="$preload" exec python -m pytest -q -p no:cacheprovider tests/test_cuda_host.py "$@"
