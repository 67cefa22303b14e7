"""What every task shares: config, data, augmentation, backbones, training, metrics, figures, run directories."""

import os

# TensorFlow reads both once, as it is imported. oneDNN's convolutions are its fast ones on any x86-64 processor, but by
# default it takes them on those with AVX-512 alone.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
