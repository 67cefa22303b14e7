"""What every study shares: config, data, augmentation, backbones, training, metrics, figures, run directories."""
