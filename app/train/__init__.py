"""Images and labels in, checkpoint out."""
