#!/usr/bin/env bash
# What only a CUDA GPU can show, in ten minutes, as docs/gpu.json:
#   benchmarks/gpu.sh
# The environment may name another PYTHON, and OUT for logs and partial results. SMOKE=1 is the smallest form, on a CPU.
# A part that fails or takes too long leaves its log, and the others go on.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-build/gpu}
smoke=${SMOKE:+--smoke}
mkdir -p "$out"
start=$SECONDS

part() { # name, seconds, command
    local name=$1 limit=$2 before=$SECONDS
    shift 2
    if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
        echo "$name: $((SECONDS - before)) s"
    else
        echo "$name: failed after $((SECONDS - before)) s, see $out/$name.log"
    fi
}

if [ -z "$smoke" ]; then
    part tests 150 "$python" -m pytest -q tests/test_cuda.py
    part sdxl_step 120 "$python" benchmarks/sdxl_step.py --device cuda --latent-size 128 --out "$out/sdxl_step.json"
    part pool 120 "$python" benchmarks/pool.py --device cuda --rounds 5 --json "$out/pool.json"
fi
part steps 90 "$python" benchmarks/gpu.py steps "$out/steps.json" $smoke
part heads 60 "$python" benchmarks/gpu.py heads "$out/heads.json" $smoke
part image 60 "$python" benchmarks/gpu.py image "$out/image.json" $smoke
[ -z "$smoke" ] && json=docs/gpu.json || json=build/gpu-smoke.json
"$python" benchmarks/gpu.py collect "$out" "${JSON:-$json}" >/dev/null
left=$((570 - (SECONDS - start)))
if [ -z "$smoke" ] && [ "$left" -gt 30 ]; then # checkpoints: the same command goes on another day
    part miniature "$left" "$python" -m tools.miniature build --recipe cuda
fi
