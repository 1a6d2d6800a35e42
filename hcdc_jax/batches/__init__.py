"""What networks read: real graphs and images as batches, and what augmentation does to images."""
