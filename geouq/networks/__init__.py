"""Networks, pure torch: architectures, named dropout sites, receptive field."""
