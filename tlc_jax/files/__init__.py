"""Files and arrays: pictures, videos, checkpoints, data sets."""
