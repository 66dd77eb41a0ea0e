#!/bin/sh
# The paper's CIFAR-10 recipe, WRN-40-2, as standard training and as AugMix + JSD, scored on generated corruptions, and
# what half precision and compiling bring in the same place. For a GPU; the paper has 26.9 % and 11.2 % at 100 epochs.
#
#     benchmarks/paper_cifar10.sh DATA_FOLDER OUT [more arguments of jobs/cifar.py, such as --train.epochs 10]
#
# writes OUT.md, OUT.json and OUT_loop.md. The run's folder is below $AUGMIX_STORAGE or ~/augmix_runs.
set -eu
cd "$(dirname "$0")/.."
data=$1 out=$2
shift 2
storage=${AUGMIX_STORAGE:-$HOME/augmix_runs}
name=paper_cifar10_$(git rev-parse --short HEAD 2>/dev/null || echo copy)
python jobs/cifar.py --data.path "$data" --methods standard augmix --name "$name" "$@"
python benchmarks/collect_runs.py --title "CIFAR-10, the paper's recipe" \
    --command "benchmarks/paper_cifar10.sh /data/cifar10 $(basename "$out") $*" --commit "${name##*_}" \
    --out "$out" "$storage/$name"
if command -v nvidia-smi > /dev/null; then
    python benchmarks/bench_loop.py --model wrn40_2 --half bf16 --compile > "${out}_loop.md"
else
    python benchmarks/bench_loop.py --model wrn40_2 --batch 8 --steps 1 --rounds 1 --half bf16 > "${out}_loop.md"
fi
