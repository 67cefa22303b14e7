#!/usr/bin/env bash
# What is to be measured on one NVIDIA H100 or H200, in parts that are called by name; JAX, and no network there.
#
#   tests/benchmarks/on_gpu.sh pack PARTS                # where there is a network: what the card's machine lacks
#   tests/benchmarks/on_gpu.sh pack PARTS DATA WEIGHTS   # the same with what the protocols need, the first four below
#   tests/benchmarks/on_gpu.sh unpack PARTS              # there, once for each part or for all of them
#   tests/benchmarks/on_gpu.sh cifar10_resnet18          # there, in order of worth; the same command goes on
#   tests/benchmarks/on_gpu.sh cifar10_mobilenet_v2
#   tests/benchmarks/on_gpu.sh cifar100_resnet18
#   tests/benchmarks/on_gpu.sh cifar100_mobilenet_v2
#   tests/benchmarks/on_gpu.sh rate                      # images/s against PyTorch, waiting for data, TFLOP/s
#   tests/benchmarks/on_gpu.sh rate_50                   # ours again, 50 steps as one program
#   tests/benchmarks/on_gpu.sh kills                     # killed three times, equal to the bit?
#   tests/benchmarks/on_gpu.sh seeds linear              # 16 seeds as one program against one; or another of its cases
#
# The card's machine has Python (GPU_PYTHON, 3.12), PyTorch and JAX with CUDA. DATA is a data folder with cifar10 and
# cifar100, WEIGHTS one with mobilenet_v2_imagenet.safetensors and resnet18_tiny_imagenet.safetensors. PARTS gets files
# of 48 MiB at most: wheels, data, weights. `unpack` keeps them in STORE (~/on_gpu) until the last one is there, and
# installs them. COMMIT=$(git rev-parse HEAD) names the code of a copy that has no .git: without it the tables set its
# runs apart. A part takes under 8 minutes; a protocol stops after them, saved. What a part leaves is in OUT (STORE/out):
# the run's folder without weights as one archive, readings as JSON. TINY=1 tries every part on a CPU: small images, few
# of them.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
STORE=${STORE:-$HOME/on_gpu} GPU_PYTHON=${GPU_PYTHON:-3.12} TINY=${TINY:-}
OUT=${OUT:-$STORE/out}
export KERAS_BACKEND=jax PYTHONUNBUFFERED=1
# What XLA compiles is kept for the next start; `kills` does without.
export JAX_COMPILATION_CACHE_DIR=$STORE/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export PYTHONPATH="$STORE/site${PYTHONPATH:+:$PYTHONPATH}" TFDS_DATA_DIR=${TFDS_DATA_DIR:-$STORE/content/data}
python=${PYTHON:-python3}

# JAX, PyTorch and CUDA's libraries are there already; TensorFlow's CPU build reads the data. The others are not imported.
LEFT_OUT='jax|jaxlib|ml-dtypes|libclang|pyarrow|keras-cv|keras-core|tensorboard|tensorboard-data-server|pywavelets|hf-xet|kagglehub|regex'

pack() { # PARTS [DATA WEIGHTS]
  local work; work=$(mktemp -d)
  mkdir -p "$work/wheels" "$work/data" "$work/weights" "$1"
  if [[ ${2:-} ]]; then # first, as the download takes minutes
    cp -rL "$2/cifar10" "$2/cifar100" "$work/data/"
    cp -L "$3"/{mobilenet_v2_imagenet,resnet18_tiny_imagenet}.safetensors "$work/weights/"
  fi
  grep -E '^[a-z]' "$repository/requirements-cpu.txt" | grep -vE "^($LEFT_OUT)==" > "$work/needed.txt"
  grep '^promise==' "$work/needed.txt" > "$work/source.txt" # tensorflow-datasets's; the only one that has no wheel
  sed -i '/^promise==/d' "$work/needed.txt"
  "$python" -m pip wheel -q --no-deps --wheel-dir "$work/wheels" --requirement "$work/source.txt"
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "$GPU_PYTHON" --implementation cp \
    $(printf -- '--platform manylinux_2_%s_x86_64 ' 17 24 27 28 31 34 35) --platform manylinux2014_x86_64 \
    --dest "$work/wheels" --requirement "$work/needed.txt"
  tar -C "$work" -c wheels data weights | split --bytes=48M --numeric-suffixes - "$1/part-"
  (cd "$1" && sha256sum part-* > SHA256)
  rm -r "$work"
  ls -l "$1"
}

unpack() { # PARTS
  mkdir -p "$STORE/parts"
  cp "$1"/* "$STORE/parts/"
  cd "$STORE/parts"
  if ! sha256sum --status --check SHA256 2> /dev/null; then
    echo "$(ls part-* | wc -l) of $(wc -l < SHA256) parts are there and whole"
    return
  fi
  mkdir -p "$STORE/content"
  cat part-* | tar -C "$STORE/content" -x
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$STORE/site" "$STORE"/content/wheels/*.whl
  "$python" -c 'import jax, keras, tensorflow; print("ready:", keras.__version__, jax.devices())'
}

three_phase() { # DATASET BACKBONE WEIGHTS REGIME
  local more=()
  [[ $TINY ]] && more=(--limit-train 120 --limit-test 20 --image-size 32 --phases.{0,1,2}.epochs=1)
  if [[ ${COMMIT:-} && ! -e $repository/.git ]]; then
    printf '{"commit": "%s", "dirty": false}\n' "$COMMIT" > "$repository/snapshot.json"
  fi
  trap "archive '$1' '$2'" EXIT # of what there is, if the time is over
  timeout --signal TERM 470 "$python" "$repository/tasks/cifar_phased/train.py" --preset three_phase \
    --dataset "$1" --backbone "$2" --weights "$3" --batch-norm "$4" --offline --steps-per-execution 64 \
    --out "$STORE/runs" "${more[@]}"
}

archive() { # DATASET BACKBONE
  local folder; folder=$(ls -td "$STORE"/runs/cifar_phased/*"$1-$2"* | head -1)
  mkdir -p "$OUT"
  tar -C "$STORE/runs" -czf "$OUT/$1_$2.tar.gz" --exclude checkpoints --exclude '*.keras' --exclude '*.safetensors' \
    "cifar_phased/$(basename "$folder")"
}

rate() {
  local more=()
  [[ $TINY ]] && more=(--size 32 --steps 2 --rounds 1)
  mkdir -p "$OUT"
  "$python" "$repository/tests/benchmarks/gpu.py" resnet18 --json "$OUT/rate.json" "${more[@]}"
}

rate_50() { # an epoch of 20 programs, as the first of each is not counted
  local more=(--together 50 --steps 1000)
  [[ $TINY ]] && more=(--together 2 --size 32 --steps 4)
  mkdir -p "$OUT"
  "$python" "$repository/tests/benchmarks/gpu.py" resnet18 --rounds 2 --only ours --json "$OUT/rate_50.json" "${more[@]}"
}

kills() {
  unset JAX_COMPILATION_CACHE_DIR # each start chooses its kernels by itself
  local kills=3 epochs=150 # of the last phase, so that the kills meet training
  [[ $TINY ]] && kills=1 epochs=3
  "$python" "$repository/tests/kill_and_resume.py" --kills "$kills" -- --preset demo --deterministic yes \
    --phases.2.epochs "$epochs"
}

seeds() { # CASE
  local more=(--images 36000 --repeats 1)
  [[ $TINY ]] && more=(--seeds 2 --images 400 --epochs 2 --repeats 1)
  mkdir -p "$OUT"
  "$python" "$repository/tests/benchmarks/seeds.py" "$@" --json "$OUT/seeds_${1:-all}.json" "${more[@]}"
}

case ${1:-} in
  pack | unpack | rate | rate_50 | kills | seeds) "$@" ;;
  cifar10_* | cifar100_*)
    dataset=${1%%_*} backbone=${1#*_}
    case $backbone in
      mobilenet_v2) file=mobilenet_v2_imagenet regime=keep ;;
      resnet18) file=resnet18_tiny_imagenet regime=follow ;;
      *) echo "error: no backbone $backbone; allowed: mobilenet_v2, resnet18" >&2; exit 2 ;;
    esac
    three_phase "$dataset" "$backbone" "${WEIGHTS:-$STORE/content/weights}/$file.safetensors" "$regime"
    ;;
  *) sed -n '2,/^set/{/^#/p}' "$0"; exit 2 ;;
esac
