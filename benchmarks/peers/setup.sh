#!/usr/bin/env bash
# Make the environment of a peer that a benchmark compares cnnzoo with: benchmarks/peers/venvs/NAME, up to 6 GB.
#
#     benchmarks/peers/setup.sh ffcv                          # for loading.py
#     benchmarks/peers/setup.sh spdl                          # for loading.py
#     benchmarks/peers/setup.sh timm                          # its training script, for training.py
#     benchmarks/peers/setup.sh lightning-hydra-template      # for training.py
#     SOURCE=DIR benchmarks/peers/setup.sh timm               # without GitHub: DIR is a git repository of the peer
#
# Packages come from the registry that pip is set up for. torch and torchvision have the versions that cnnzoo uses, so
# that the peers differ in nothing but themselves. PYTHON: the interpreter that has cnnzoo; python by default.
set -euo pipefail

source=${SOURCE:+file://$(realpath "$SOURCE")}
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
name=${1:-}
venv=venvs/$name
python=${PYTHON:-python}

# Clone a tag of a repository to $venv/source.
clone() {
    local from=${source:-https://github.com/$1}
    git -c advice.detachedHead=false clone --quiet --depth 1 --branch "$2" "$from" "$venv/source"
}

# Install packages in the environment, with the versions of torch and torchvision above.
install() {
    "$venv/bin/pip" install "${torch[@]}" "$@"
}

# Stop because something that pip does not install is missing.
lacks() {
    echo "$name needs $1; on Debian: apt-get install $2" >&2
    exit 1
}

case $name in
ffcv) # compiles a module
    for command in g++ pkg-config; do command -v "$command" > /dev/null || lacks "$command" "$command"; done
    pkg-config --exists opencv4 || lacks "OpenCV's headers" libopencv-dev
    pkg-config --exists libturbojpeg || lacks "TurboJPEG's headers" libturbojpeg0-dev
    ;;
spdl)
    /sbin/ldconfig -p | grep -F libavdevice.so > /dev/null || lacks "FFmpeg's libraries" ffmpeg
    ;;
timm | lightning-hydra-template) ;;
*)
    echo "usage: setup.sh ffcv|spdl|timm|lightning-hydra-template" >&2
    exit 2
    ;;
esac
if [ -e "$venv" ]; then
    echo "$PWD/$venv exists; remove it to make it again" >&2
    exit 1
fi
read -ra torch < <("$python" -c 'from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in ("torch", "torchvision")))')
trap '[ "$?" = 0 ] || rm -rf "$venv"' EXIT # nothing half made is left
"$python" -m venv "$venv"

case $name in
ffcv) # of torch, loaders need only tensors, so the version does not matter; FFCV itself bounds nothing
    "$venv/bin/pip" install "torch>=2.11,<2.14" "numpy<2.5" "pillow>=11.2.1"
    "$venv/bin/pip" install ffcv==1.0.2 "numba<0.69" "numpy<2.5" setuptools
    ;;
spdl)
    "$venv/bin/pip" install "torch>=2.11,<2.14" "numpy<2.5" spdl==0.8.0
    "$venv/bin/python" -c 'import spdl.io; spdl.io.demux_config()' # loads FFmpeg
    ;;
timm)
    clone huggingface/pytorch-image-models v1.0.28
    install "$venv/source"
    ;;
lightning-hydra-template)
    clone ashleve/lightning-hydra-template v2.0.3
    install --requirement "$venv/source/requirements.txt" --editable "$root" # the network is cnnzoo's
    ;;
esac
echo "$PWD/$venv is ready"
