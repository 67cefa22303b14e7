"""What every task shares: config, data, augmentation, backbones, training, metrics, figures, run directories."""

import os

# TensorFlow reads both when it is imported. oneDNN's convolutions are faster on any x86-64 processor, but TensorFlow
# enables them by default only for AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
