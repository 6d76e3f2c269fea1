"""From a photo's bytes to a label map to bytes; knows no HTTP and no training."""
