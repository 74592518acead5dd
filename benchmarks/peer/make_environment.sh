#!/bin/sh
# Make the environment of the peer: rsdiff 0.1.0 on imagen-pytorch 2.1.0, which run RSDiff as it was published.
#
#     sh benchmarks/peer/make_environment.sh FOLDER [PYTHON]
#
# Needs Python 3.10 to 3.13 and pip; without a GPU, about 3 GB. Use the peer as the last lines of this script do.
set -eu
folder=${1:?"usage: make_environment.sh FOLDER [PYTHON]"}
python=${2:-python3}

"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet "torch==2.13.0" "transformers<5" "imagen-pytorch==2.1.0" "rsdiff==0.1.0"

# The torchvision of PyPI is compiled for CUDA. The version that belongs to this torch does not import when torch
# itself is a build for CPUs; 0.15.2, the last before it insisted on its compiled operators, does. The peer uses
# its Python part only: transforms of images.
"$folder/bin/pip" install --quiet --no-deps "torchvision==0.28.0"
"$folder/bin/python" -c "import torchvision" 2> /dev/null ||
    "$folder/bin/pip" install --quiet --no-deps "torchvision==0.15.2"

# imagen-pytorch asks the hub for the width of its default text encoder when it is imported. That is all it needs
# here, so a cache that holds a configuration of this width stands in for the hub.
snapshot=$folder/hub/hub/models--google--t5-v1_1-base
mkdir -p "$snapshot/refs" "$snapshot/snapshots/width-only"
printf 'width-only' > "$snapshot/refs/main"
printf '{"model_type": "t5", "d_model": 768}' > "$snapshot/snapshots/width-only/config.json"

HF_HOME="$folder/hub" HF_HUB_OFFLINE=1 "$folder/bin/python" -W ignore -c "
import imagen_pytorch, rsdiff, torch
print('ready: imagen-pytorch', imagen_pytorch.__version__, 'on torch', torch.__version__)"
