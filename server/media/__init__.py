"""Input and output images, and the files that are served."""
